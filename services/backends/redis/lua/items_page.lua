-- [id, body, ...] of the items that follow the id ARGV[1] by name, at most ARGV[2] items and few more than ARGV[3] bytes.
-- Keys under KEYS[1]: see items_put.lua.
local P, found, size, most = KEYS[1], {}, 0, tonumber(ARGV[3])
for _, id in ipairs(redis.call('ZRANGEBYLEX', P .. 'ids', '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2])) do
  if size > most then break end
  local body = redis.call('HGET', P .. 'bodies', id)
  found[#found + 1] = id
  found[#found + 1] = body
  size = size + #body
end
return found
