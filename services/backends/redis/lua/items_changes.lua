-- {number, [id, body or nothing, ...]}: what changed after number ARGV[1], oldest first, at most ARGV[2] items and few
-- more than ARGV[3] bytes, and the number to ask from next. Keys under KEYS[1]: see items_put.lua.
local P = KEYS[1]
local rows = redis.call('ZRANGEBYSCORE', P .. 'changes', '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local found, size, most, number = {}, 0, tonumber(ARGV[3]), ARGV[1]
for i = 1, #rows, 2 do
  if size > most then break end
  local body = redis.call('HGET', P .. 'bodies', rows[i])
  found[#found + 1] = rows[i]
  found[#found + 1] = body
  size = size + (body and #body or 0)
  number = rows[i + 1]
end
return {number, found}
