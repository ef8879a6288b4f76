-- Shared by publish.lua and read.lua.
--
-- meta (hash): epoch, seq of the last publication, replid of the server that numbered it, and where the epoch before
-- ended: prev_epoch, prev_seq. Numbering is fenced: on a server with another replication ID a new epoch begins, since
-- that server may lack numbers that were given out.

-- The replication ID of this server.
local function replid()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

-- The room as meta has it; nil if it was never published to, or has expired.
local function load(meta)
  local m = redis.call('HMGET', meta, 'epoch', 'seq', 'replid', 'prev_epoch', 'prev_seq')
  if not m[1] then
    return nil
  end
  return { epoch = m[1], seq = tonumber(m[2]), replid = m[3], prev_epoch = m[4], prev_seq = tonumber(m[5] or 0) }
end

-- The number of the last publication in the history, 0 if it is empty.
local function last_seq(history)
  local last = redis.call('XREVRANGE', history, '+', '-', 'COUNT', 1)
  return last[1] and tonumber(string.match(last[1][1], '^%d+')) or 0
end

-- A new epoch, which numbers on from the end of the history. Writes nothing.
local function renew(old, history, id, random, floor)
  local time = redis.call('TIME')
  local generation = math.max(time[1] * 1000 + math.floor(time[2] / 1000), floor + 1)
  local room = { seq = last_seq(history), replid = id, renewed = true }
  if old then
    generation = math.max(generation, tonumber(string.match(old.epoch, '^%x+'), 16) + 1)
    room.seq = math.max(room.seq, old.seq)
    room.prev_epoch, room.prev_seq = old.epoch, room.seq
  elseif room.seq > 0 then
    -- Only the meta is gone: nobody knows what that history's epoch was.
    room.prev_epoch, room.prev_seq = '-', room.seq
  end
  room.epoch = string.format('%x', generation) .. '-' .. random
  return room
end

-- Writes a new epoch down.
local function save(meta, room)
  local fields = { 'epoch', room.epoch, 'seq', string.format('%d', room.seq), 'replid', room.replid }
  if room.prev_epoch then
    fields[#fields + 1], fields[#fields + 2] = 'prev_epoch', room.prev_epoch
    fields[#fields + 1], fields[#fields + 2] = 'prev_seq', string.format('%d', room.prev_seq)
  end
  redis.call('HSET', meta, unpack(fields))
end

