-- Deletes the items ARGV; returns how many were there. Keys under KEYS[1]: see items_put.lua.
local P, deleted = KEYS[1], 0
local now = redis.call('TIME')[1]
for _, id in ipairs(ARGV) do
  if redis.call('HEXISTS', P .. 'bodies', id) == 1 then
    -- First what a full server refuses, so that nothing is left half done.
    redis.call('ZADD', P .. 'changes', redis.call('HINCRBY', P .. 'state', 'sequence', 1), id)
    redis.call('ZADD', P .. 'deleted', now, id)
    redis.call('HDEL', P .. 'bodies', id)
    redis.call('ZREM', P .. 'ids', id)
    deleted = deleted + 1
  end
end
return deleted
