-- Stores the schema ARGV[1]; one that differs from the stored schema deletes every confirmation. See items_put.lua.
local P = KEYS[1]
if redis.call('HGET', P .. 'state', 'schema') ~= ARGV[1] then
  redis.call('HSET', P .. 'state', 'schema', ARGV[1])
  redis.call('DEL', P .. 'confirmed')
end
