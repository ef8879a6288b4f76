-- Reads a page of a room's history with the room's position, in one step. Creates nothing; but if the room's numbering
-- is of another server, the new epoch begins here, so that no reader takes the old one for the present.
--
-- KEYS: meta, history.
-- ARGV: 'after' | 'last' | 'oldest', epoch, seq (or how many), most items, most bytes, random bits, highest generation
--       known.
-- Answers: epoch, seq, prev epoch, prev seq, first seq of the page, complete (1 or 0), entries.
local meta, history = KEYS[1], KEYS[2]
local mode, epoch, number, items, bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local room = load(meta)
if not room then
  local complete = mode ~= 'after' or (epoch == '' and number == 0)
  return { '', 0, '', 0, 0, complete and 1 or 0, {} }
end
local id = replid()
if room.replid ~= id then
  room = renew(room, history, id, ARGV[6], tonumber(ARGV[7]))
  save(meta, room)
end

local first, complete = 1, true
if mode == 'last' then
  first = math.max(room.seq - number + 1, 1)
elseif mode == 'after' then
  if epoch == room.epoch or (epoch == '' and number == 0) then
    first, complete = number + 1, number <= room.seq
  elseif epoch == room.prev_epoch then
    first = math.min(number, room.prev_seq) + 1
  else
    first, complete = room.prev_seq + 1, false
  end
end

-- In small steps, so that a page of large entries does not have a thousand of them read.
local STEP = 32
local entries, size, start, next_seq = {}, 0, nil, first
local more = first <= room.seq
while more and #entries < items do
  local from = string.format('%d-0', next_seq)
  local found = redis.call('XRANGE', history, from, '+', 'COUNT', math.min(STEP, items - #entries))
  more = #found == STEP
  for _, item in ipairs(found) do
    local seq, entry = tonumber(string.match(item[1], '^%d+')), item[2][2]
    if start and seq ~= next_seq or #entries > 0 and size + #entry > bytes then
      more = false
      break
    end
    start = start or seq
    size = size + #entry
    entries[#entries + 1] = entry
    next_seq = seq + 1
  end
end
-- Contiguity decides: from where it was asked on, or nothing was to come.
local reached = start == first or (not start and first > room.seq)
if mode == 'after' then
  complete = complete and reached
end
return { room.epoch, room.seq, room.prev_epoch or '', room.prev_seq or 0, start or 0, complete and 1 or 0, entries }
