-- {latest log time, [text, asked at key, ...]}: texts that begin with ARGV[1], at most ARGV[2], most asked first.
-- KEYS[1] begins all keys of the memory; memory_common.lua describes them.
--
-- Few texts with this beginning are gone through; of many, the first are found soon by walking down all texts from the
-- most asked on. A walk ends somewhere, so that a rare beginning among millions of texts cannot hold up the server.
local FEW, FAR, PAGE = 1000, 50000, 500
local P, prefix, limit = KEYS[1], ARGV[1], tonumber(ARGV[2])
local first, last = '[' .. prefix, '(' .. prefix .. '\255' -- no byte of UTF-8 is that high
local found = {}

if redis.call('ZLEXCOUNT', P .. 'lex', first, last) <= FEW then
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
  while #found < limit and start < FAR do
    local texts = redis.call('ZRANGE', P .. 'rank', start, start + PAGE - 1)
    if #texts == 0 then break end
    for _, text in ipairs(texts) do
      if text:sub(1, #prefix) == prefix and #found < limit then found[#found + 1] = text end
    end
    start = start + PAGE
  end
end
if #found == 0 then return {false, {}} end
local told = {}
for i, text in ipairs(found) do
  told[2 * i - 1] = text
  told[2 * i] = redis.call('HGET', P .. 'texts', text)
end
return {redis.call('HGET', P .. 'state', 'at'), told}
