-- Memory keys that share one of the variants in ARGV[2..], at most ARGV[1] of each, in order and each once.
-- KEYS[1] begins all keys of the memory; memory_common.lua describes them.
local found, known = {}, {}
for i = 2, #ARGV do
  for _, key in ipairs(redis.call('ZRANGE', KEYS[1] .. 'n:' .. ARGV[i], 0, ARGV[1] - 1)) do
    if not known[key] then
      known[key] = true
      found[#found + 1] = key
    end
  end
end
return found
