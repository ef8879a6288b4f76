-- Keeps that a user was removed, in the place of an earlier removal of the same user and room.
--
-- KEYS: the sorted set of removals, by time.
-- ARGV: who, how long they are kept (ms), how many at most.
-- Answers: its time (Unix ms), higher than that of any other; 0 if there are too many.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local kept = tonumber(ARGV[2])
local before = string.format('%.0f', now - kept)
if not redis.call('ZSCORE', KEYS[1], ARGV[1])
  and redis.call('ZCOUNT', KEYS[1], '(' .. before, '+inf') >= tonumber(ARGV[3]) then
  return 0
end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
local at = math.max(now, (tonumber(last) or 0) + 1)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', before)
redis.call('ZADD', KEYS[1], string.format('%.0f', at), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return at
