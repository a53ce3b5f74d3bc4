-- What the scripts that change the memory index share; each is this file and the parts that it needs (see memory.py)
-- joined into one. KEYS[1] begins all keys of the memory; ARGV[1] is JSON: limits, and what the script is to do.
--
-- Numbers are kept as doubles in binary form. What is kept under which key (texts, memory keys, ids and principals are
-- the users' own words and stand at the end of a key, or are members):
--
--   state      hash    offset, used (changes so far), at (latest log time)
--   queries    zset    memory key, by when it was last used;     people   zset   person, likewise
--   shown      hash    memory key -> weight, at
--   texts      hash    text -> asked, at, memory key
--   rank       zset    text, by minus its weight on a scale on which time does not matter; lex: the same texts by name
--   t:KEY      zset    texts of a query
--   s:KEY      hash    object_id -> clicks, at                    p:KEY      hash   object_id -> predicted score
--   o:OBJECT   zset    memory keys with a score of the item       f:OBJECT   zset   with a predicted one
--   n:VARIANT  zset    memory keys with items to give, by what is left of them without a token or two
--   a:TEXT     hash    principal -> weight, at, used              c:PAIR     hash   likewise, of a (memory key, item)
--   b:WHO      zset    "a" TEXT and "c" PAIR that a principal contributed to
--   h:PERSON   list    weight, at, object_id, newest first
local P = KEYS[1]
local call, pack, read = redis.call, struct.pack, struct.unpack
local request = cjson.decode(ARGV[1])
local limits = request.limits

local function decay(seconds)
  return seconds > 0 and 2 ^ (-seconds / limits.half_life) or 1
end

-- (weight, at) after adding `weight` of time `at` to a stored one; the later of both times counts.
local function add(stored, since, weight, at)
  if not stored then return weight, at end
  if at >= since then return stored * decay(at - since) + weight, at end
  return stored + weight * decay(since - at), since
end

-- Order by bytes, which is that of code points; Lua's own follows the server's locale.
local function less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function pair_of(key, object) return #key .. ':' .. key .. object end

local function split_pair(pair)
  local size, start = pair:match('^(%d+):()')
  return pair:sub(start, start + size - 1), pair:sub(start + size)
end
