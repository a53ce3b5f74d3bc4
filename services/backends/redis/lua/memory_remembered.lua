-- What is kept of the memory keys in ARGV: {latest log time, [shown], [scores], [predictions]}, the last three per key.
-- KEYS[1] begins all keys of the memory; memory_common.lua describes them.
local scores, predictions = {}, {}
for i, key in ipairs(ARGV) do
  scores[i] = redis.call('HGETALL', KEYS[1] .. 's:' .. key)
  predictions[i] = redis.call('HGETALL', KEYS[1] .. 'p:' .. key)
end
local latest = redis.call('HGET', KEYS[1] .. 'state', 'at')
return {latest, redis.call('HMGET', KEYS[1] .. 'shown', unpack(ARGV)), scores, predictions}
