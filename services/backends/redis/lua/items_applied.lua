-- Index ARGV[1] has taken in everything up to number ARGV[2]. Deletions that every index has, and that are older than
-- ARGV[3] seconds, are no longer needed: some of them are dropped. See items_put.lua.
local P, AT_ONCE = KEYS[1], 500
redis.call('HSET', P .. 'confirmed', ARGV[1], ARGV[2])
local all = math.huge
for _, number in ipairs(redis.call('HVALS', P .. 'confirmed')) do all = math.min(all, tonumber(number)) end
local before = redis.call('TIME')[1] - ARGV[3]
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'deleted', '-inf', '(' .. before, 'LIMIT', 0, AT_ONCE)) do
  if tonumber(redis.call('ZSCORE', P .. 'changes', id)) <= all then
    redis.call('ZREM', P .. 'changes', id)
    redis.call('ZREM', P .. 'deleted', id)
  end
end
