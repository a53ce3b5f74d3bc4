-- Puts items: ARGV holds id, body, id, body ... An item that already is what it should become is no change.
--
-- KEYS[1] begins all keys of the catalogue. Under it are kept:
--
--   bodies     hash   id -> document                        ids       zset   every id, by name
--   changes    zset   id, by the number of its last change  deleted   zset   ids that are gone, by when (Unix time)
--   state      hash   sequence (number of the last change), schema
--   confirmed  hash   index -> the number up to which it has taken changes in
local P = KEYS[1]
for i = 1, #ARGV, 2 do
  local id, body = ARGV[i], ARGV[i + 1]
  if redis.call('HGET', P .. 'bodies', id) ~= body then
    if redis.call('HSET', P .. 'bodies', id, body) == 1 then
      redis.call('ZADD', P .. 'ids', 0, id)
      redis.call('ZREM', P .. 'deleted', id)
    end
    redis.call('ZADD', P .. 'changes', redis.call('HINCRBY', P .. 'state', 'sequence', 1), id)
  end
end
