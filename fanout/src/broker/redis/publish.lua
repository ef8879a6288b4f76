-- Stores and announces publications, in order, in one step.
--
-- KEYS, for each publication: meta, history, idempotency key (meta again if it has none).
-- ARGV: history size, history TTL in ms, meta TTL in ms, random bits, highest generation known;
--       then for each publication: channel, entry, key TTL in ms (0: no key).
-- Rows without a channel have keys of publications that the one after these rows must not come behind.
-- Answers, for each publication: epoch, seq, and 0 (stored), 1 (duplicate), 2 (refused, not stored) or 3 (a duplicate that
-- came behind one that it must not).
local size, history_ttl, meta_ttl, random, floor = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local id = replid()

-- Everything that can go wrong for a whole call goes wrong here, before the first write.
local rooms = {}
for i = 1, #KEYS, 3 do
  local meta, history = KEYS[i], KEYS[i + 1]
  if not rooms[meta] then
    local room = load(meta)
    if not room or room.replid ~= id then
      room = renew(room, history, id, random, floor)
    end
    room.history = history
    rooms[meta] = room
  end
end

local answers, wrote, later = {}, false, {}
local function answer(epoch, seq, flag)
  local n = #answers
  answers[n + 1], answers[n + 2], answers[n + 3] = epoch, seq, flag
end

local function is_behind(epoch, seq)
  for _, at in ipairs(later) do
    local its_epoch, its_seq = string.match(at, '^(%S+) (%d+)$')
    if its_epoch == epoch and tonumber(its_seq) < seq then
      return true
    end
  end
  return false
end

for i = 1, #KEYS, 3 do
  local meta, history, key = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local channel, entry, key_ttl = ARGV[i + 5], ARGV[i + 6], ARGV[i + 7]
  local room = rooms[meta]
  local known = key_ttl ~= '0' and redis.pcall('GET', key)
  if channel == '' then
    local at = redis.pcall('GET', key)
    if at then
      later[#later + 1] = type(at) == 'string' and at or ''
    end
  elseif type(known) == 'table' then
    if not wrote then
      return known
    end
    answer('', 0, 2)
  elseif known then
    -- The first announcement may have been lost: say the position again.
    local epoch, seq = string.match(known, '^(%S+) (%d+)$')
    redis.pcall('PUBLISH', channel, known)
    answer(epoch, tonumber(seq), is_behind(epoch, tonumber(seq)) and 3 or 1)
  elseif #later > 0 then
    answer('', 0, 2)
  else
    local seq = string.format('%d', room.seq + 1)
    local added = redis.pcall('XADD', history, 'MAXLEN', '=', size, seq .. '-0', 'e', entry)
    if type(added) == 'table' then
      if not wrote then
        return added
      end
      answer('', 0, 2)
    else
      wrote = true
      room.seq = room.seq + 1
      room.grew = true
      local at = room.epoch .. ' ' .. seq
      if key_ttl ~= '0' then
        redis.call('SET', key, at, 'PX', key_ttl)
      end
      redis.pcall('PUBLISH', channel, at .. ' ' .. entry)
      answer(room.epoch, room.seq, 0)
    end
  end
  if channel ~= '' and #later > 0 then
    later = {}
  end
end

for meta, room in pairs(rooms) do
  if room.grew then
    if room.renewed then
      save(meta, room)
    else
      redis.call('HSET', meta, 'seq', string.format('%d', room.seq))
    end
    redis.call('PEXPIRE', meta, meta_ttl)
    redis.call('PEXPIRE', room.history, history_ttl)
  end
end
return answers
