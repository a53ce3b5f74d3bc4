-- {latest log time, [text, asked at key, ...]}: texts that begin with ARGV[1], at most ARGV[2], most asked first.
-- KEYS[1] begins all keys of the memory; memory_common.lua describes them.
--
-- Few texts with this prefix are sorted; of many, the first are soon found by walking down all texts from the most
-- asked. The walk is bounded, so that a rare prefix among millions of texts cannot hold up the server.
local MAX_SORTED, MAX_WALK, PAGE = 1000, 50000, 500
local P, prefix, limit = KEYS[1], ARGV[1], tonumber(ARGV[2])
local first, last = '[' .. prefix, '(' .. prefix .. '\255' -- no byte of UTF-8 is that high
local found = {}

if redis.call('ZLEXCOUNT', P .. 'lex', first, last) <= MAX_SORTED then
  local texts = redis.call('ZRANGEBYLEX', P .. 'lex', first, last)
  local rank = {}
  if #texts > 0 then
    for i, value in ipairs(redis.call('ZMSCORE', P .. 'rank', unpack(texts))) do rank[texts[i]] = {tonumber(value), i} end
    table.sort(texts, function(a, b)
      local x, y = rank[a], rank[b]
      if x[1] ~= y[1] then return x[1] < y[1] end
      return x[2] < y[2]
    end)
  end
  found = {unpack(texts, 1, math.min(limit, #texts))}
else
  local start = 0
  while #found < limit and start < MAX_WALK do
    local texts = redis.call('ZRANGE', P .. 'rank', start, start + PAGE - 1)
    if #texts == 0 then break end
    for _, text in ipairs(texts) do
      if text:sub(1, #prefix) == prefix and #found < limit then found[#found + 1] = text end
    end
    start = start + PAGE
  end
end
if #found == 0 then return {false, {}} end
local rows = {}
for i, text in ipairs(found) do
  rows[2 * i - 1] = text
  rows[2 * i] = redis.call('HGET', P .. 'texts', text)
end
return {redis.call('HGET', P .. 'state', 'at'), rows}
