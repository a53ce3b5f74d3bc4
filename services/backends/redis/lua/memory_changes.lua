-- Every change to the memory index. KEYS[1] begins all its keys, KEYS[2] is there while somebody copies the memory;
-- ARGV[1] names what to do, ARGV[2] holds it as JSON.
--
--   apply   {offset, seen, limits, changes}: the changes of the log, and with them `offset`. Returns {1, offset}, or
--           {0, committed} when `offset` is committed already, {-1, committed} when not `seen` (if given) is, or
--           {-2, committed} while the memory is being copied.
--   predict {limits, items: [[object_id, [[key, score], ...]], ...]}: replaces what is predicted for these items.
--   forget  [object_id, ...]: forgets items, as many as fit into one run. Returns how many that were.
--   put     {limits, rows}: puts back rows of another memory (see MemoryRow). Returns how many.
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
local NOTHING = 1e-9 -- A weight below this is what rounding left of something that was taken out.
local AT_ONCE = 5000 -- Contributions that one run may forget with their items.
local limits

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

-- --- neighbours ---

-- As services.memory.keys.variants: what remains of `key` without one token, or without two where that leaves enough.
local function variants(key)
  local tokens = {}
  for token in (key .. ' '):gmatch('([^ ]*) ') do tokens[#tokens + 1] = token end
  local found, count = {}, #tokens
  if count < 2 then return found end
  local function without(i, j)
    local kept = {}
    for k = 1, count do
      if k ~= i and k ~= j then kept[#kept + 1] = tokens[k] end
    end
    found[#found + 1] = table.concat(kept, ' ')
  end
  for i = 1, count do without(i, i) end
  if count >= 4 and count <= 6 then
    for i = 1, count do
      for j = i + 1, count do without(i, j) end
    end
  end
  return found
end

local function gives(key) return call('EXISTS', P .. 's:' .. key, P .. 'p:' .. key) end

-- Make `key` findable from its neighbours, if the item just added is its first.
local function link(key, kind)
  if call('HLEN', P .. kind .. key) == 1 and gives(key) == 1 then
    for _, variant in ipairs(variants(key)) do call('ZADD', P .. 'n:' .. variant, 0, key) end
  end
end

-- Undo it when `key` has no item left to give.
local function unlink(key)
  if gives(key) == 0 then
    for _, variant in ipairs(variants(key)) do call('ZREM', P .. 'n:' .. variant, key) end
  end
end

-- --- totals and who they come from ---

local function drop_names(kind, place)
  local names = call('HKEYS', P .. kind .. ':' .. place)
  for _, name in ipairs(names) do call('ZREM', P .. 'b:' .. name, kind .. place) end
  call('DEL', P .. kind .. ':' .. place)
  return #names
end

local function drop_text(key, text)
  call('HDEL', P .. 'texts', text)
  call('ZREM', P .. 'rank', text)
  call('ZREM', P .. 'lex', text)
  call('ZREM', P .. 't:' .. key, text)
  drop_names('a', text)
end

local function drop_score(key, object)
  call('HDEL', P .. 's:' .. key, object)
  call('ZREM', P .. 'o:' .. object, key)
  return drop_names('c', pair_of(key, object))
end

-- Add to what `principal` has given at a place, up to the cap; how much that changed the total. Nobody ('') cannot be
-- told from anybody else, so nothing is kept apart or capped.
local function contribute(kind, place, principal, weight, at, used)
  local cap = limits.principal_cap
  if principal == '' then return math.max(-cap, math.min(cap, weight)) end
  local where = P .. kind .. ':' .. place
  local row = call('HGET', where, principal)
  local stored, since
  if row then stored, since = read('<dd', row) end
  local before = add(stored, since, 0, at)
  local after, latest = add(stored, since, weight, at)
  after = math.max(-cap, math.min(cap, after))
  call('HSET', where, principal, pack('<ddd', after, latest, used))
  if not row then
    call('ZADD', P .. 'b:' .. principal, 0, kind .. place)
    if call('HLEN', where) > limits.names_per_total then -- the longest unused loses its name
      local rows, oldest, oldest_used = call('HGETALL', where), nil, math.huge
      for i = 1, #rows, 2 do
        local _, _, last = read('<ddd', rows[i + 1])
        if last < oldest_used then oldest, oldest_used = rows[i], last end
      end
      call('HDEL', where, oldest)
      call('ZREM', P .. 'b:' .. oldest, kind .. place)
    end
  end
  return after - before
end

-- Of `rows` {name, weight, at}, those that do not belong to the `keep` - 1 that weigh most now: one place is taken by a
-- new row, which had no time to gain weight.
local function least(rows, keep)
  local now, found = -math.huge, {}
  for _, row in ipairs(rows) do now = math.max(now, row[3]) end
  for _, row in ipairs(rows) do row[2] = row[2] * decay(now - row[3]) end
  while #rows >= keep do
    local last = 1
    for i = 2, #rows do
      local row, lightest = rows[i], rows[last]
      if row[2] < lightest[2] or row[2] == lightest[2] and less(lightest[1], row[1]) then last = i end
    end
    found[#found + 1] = table.remove(rows, last)
  end
  return found
end

local function log2(x)
  local mantissa, exponent = math.frexp(x)
  return exponent + math.log(mantissa) / math.log(2)
end

local function put_text(text, key, asked, at)
  call('HSET', P .. 'texts', text, pack('<dd', asked, at) .. key)
  call('ZADD', P .. 'rank', -(log2(math.max(asked, NOTHING)) + at / limits.half_life), text)
end

local function text_of(text)
  local row = call('HGET', P .. 'texts', text)
  if not row then return nil end
  local asked, at = read('<dd', row)
  return row:sub(17), asked, at
end

local function add_shown(key, weight, at, lowest)
  local row = call('HGET', P .. 'shown', key)
  local stored, since
  if row then stored, since = read('<dd', row) end
  local shown, latest = add(stored, since, weight, at)
  call('HSET', P .. 'shown', key, pack('<dd', math.max(lowest, shown), latest))
end

-- Mark `key` as just used, making room for it when it is new.
local function use(key, at, used)
  if call('ZADD', P .. 'queries', used, key) == 0 then return end
  call('HSET', P .. 'shown', key, pack('<dd', 0, at))
  if call('ZCARD', P .. 'queries') > limits.queries then
    local oldest = call('ZRANGE', P .. 'queries', 0, 0)[1]
    for _, text in ipairs(call('ZRANGE', P .. 't:' .. oldest, 0, -1)) do drop_text(oldest, text) end
    for _, object in ipairs(call('HKEYS', P .. 's:' .. oldest)) do drop_score(oldest, object) end
    call('ZREM', P .. 'queries', oldest)
    call('HDEL', P .. 'shown', oldest)
    unlink(oldest)
  end
end

-- --- what one change does ---

local function shown(key, text, principal, at, used)
  use(key, at, used)
  local added = contribute('a', text, principal, 1, at, used)
  local before, asked, since = text_of(text)
  asked, since = add(asked, since, added, at)
  put_text(text, key, asked, since)
  if before ~= key then
    if before then call('ZREM', P .. 't:' .. before, text) else call('ZADD', P .. 'lex', 0, text) end
    call('ZADD', P .. 't:' .. key, 0, text)
  end
  if not before and call('ZCARD', P .. 't:' .. key) > limits.texts_per_query then
    local rows = {}
    for _, other in ipairs(call('ZRANGE', P .. 't:' .. key, 0, -1)) do
      if other ~= text then
        local _, weight, of = text_of(other)
        rows[#rows + 1] = {other, weight, of}
      end
    end
    for _, row in ipairs(least(rows, limits.texts_per_query)) do drop_text(key, row[1]) end
  end
  add_shown(key, added, at, -math.huge)
end

local function action(key, object, principal, weight, at, used)
  use(key, at, used)
  local added = contribute('c', pair_of(key, object), principal, weight, at, used)
  local scores = P .. 's:' .. key
  local row = call('HGET', scores, object)
  local stored, since
  if row then stored, since = read('<dd', row) end
  call('HSET', scores, object, pack('<dd', add(stored, since, added, at)))
  if row then return end
  call('ZADD', P .. 'o:' .. object, 0, key)
  link(key, 's:')
  if call('HLEN', scores) > limits.items_per_query then
    local rows, all = {}, call('HGETALL', scores)
    for i = 1, #all, 2 do
      if all[i] ~= object then rows[#rows + 1] = {all[i], read('<dd', all[i + 1])} end
    end
    for _, other in ipairs(least(rows, limits.items_per_query)) do drop_score(key, other[1]) end
  end
end

local function forget_person(person)
  call('ZREM', P .. 'people', person)
  call('DEL', P .. 'h:' .. person)
end

local function remember(person, object, weight, at, used)
  if call('ZADD', P .. 'people', used, person) == 1 and call('ZCARD', P .. 'people') > limits.people then
    forget_person(call('ZRANGE', P .. 'people', 0, 0)[1])
  end
  call('LPUSH', P .. 'h:' .. person, pack('<dd', weight, at) .. object)
  call('LTRIM', P .. 'h:' .. person, 0, limits.history - 1)
end

local function take_out_clicks(pair, principal, touched)
  local key, object = split_pair(pair)
  touched[key] = true
  local where = P .. 'c:' .. pair
  local weight, at = read('<dd', call('HGET', where, principal))
  call('HDEL', where, principal)
  local clicks, since = read('<dd', call('HGET', P .. 's:' .. key, object))
  clicks, since = add(clicks, since, -weight, at)
  if call('EXISTS', where) == 0 and math.abs(clicks) < NOTHING then
    drop_score(key, object)
    unlink(key)
  else
    call('HSET', P .. 's:' .. key, object, pack('<dd', clicks, since))
  end
end

local function take_out_asking(text, principal, touched)
  local weight, at = read('<dd', call('HGET', P .. 'a:' .. text, principal))
  call('HDEL', P .. 'a:' .. text, principal)
  local key, asked, since = text_of(text)
  touched[key] = true
  asked, since = add(asked, since, -weight, at)
  if asked < NOTHING then drop_text(key, text) else put_text(text, key, asked, since) end
  add_shown(key, -weight, at, 0)
end

-- Take out what a person contributed; a query or score that nobody else stands behind goes altogether.
local function forget(principal)
  local touched = {}
  for _, place in ipairs(call('ZRANGE', P .. 'b:' .. principal, 0, -1)) do
    local take_out = place:sub(1, 1) == 'c' and take_out_clicks or take_out_asking
    take_out(place:sub(2), principal, touched)
  end
  call('DEL', P .. 'b:' .. principal)
  for key in pairs(touched) do
    if call('EXISTS', P .. 't:' .. key, P .. 's:' .. key) == 0 then
      call('ZREM', P .. 'queries', key)
      call('HDEL', P .. 'shown', key)
    end
  end
  forget_person(principal)
end

local function apply(given)
  limits = given.limits
  local state = call('HMGET', P .. 'state', 'offset', 'used', 'at')
  local committed, used, latest = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[3] or 0)
  if given.offset <= committed then return {0, committed} end
  if call('EXISTS', KEYS[2]) == 1 then return {-2, committed} end
  if given.seen >= 0 and given.seen ~= committed then return {-1, committed} end
  -- First: where there is no memory left for writing, this is what is refused.
  call('HSET', P .. 'state', 'offset', given.offset)
  for _, change in ipairs(given.changes) do
    local at = change.at
    used = used + 1
    latest = math.max(latest, at)
    local asked, took, did = change.shown, change.action, change.history
    if asked then shown(asked[1], asked[2], asked[3], at, used) end
    if took then action(took[1], took[2], took[3], took[4], at, used) end
    if did then remember(did[1], did[2], did[3], at, used) end
    if change.forget then forget('u:' .. change.forget) end
  end
  call('HSET', P .. 'state', 'used', used, 'at', latest)
  return {1, given.offset}
end

-- --- what the catalogue says ---

local function drop_prediction(key, object)
  call('HDEL', P .. 'p:' .. key, object)
  call('ZREM', P .. 'f:' .. object, key)
end

local function predict(given)
  limits = given.limits
  for _, item in ipairs(given.items) do
    local object, scores = item[1], item[2]
    local wanted = {}
    for _, entry in ipairs(scores) do wanted[entry[1]] = true end
    for _, key in ipairs(call('ZRANGE', P .. 'f:' .. object, 0, -1)) do
      if not wanted[key] then
        drop_prediction(key, object)
        unlink(key)
      end
    end
    for _, entry in ipairs(scores) do
      local key, place = entry[1], P .. 'p:' .. entry[1]
      if call('HSET', place, object, pack('<d', entry[2])) == 1 then link(key, 'p:') end
      call('ZADD', P .. 'f:' .. object, 0, key)
      if call('HLEN', place) > limits.items_per_query then
        local rows, all = {}, call('HGETALL', place)
        for i = 1, #all, 2 do rows[#rows + 1] = {all[i], read('<d', all[i + 1]), 0} end
        for _, row in ipairs(least(rows, limits.items_per_query + 1)) do drop_prediction(key, row[1]) end
      end
    end
  end
  return #given.items
end

-- Histories keep their entries: they say what a person did, and a catalogue often takes an item back.
local function forget_items(objects)
  local work = 0
  for i, object in ipairs(objects) do
    for _, key in ipairs(call('ZRANGE', P .. 'o:' .. object, 0, AT_ONCE)) do
      if work > AT_ONCE then return i - 1 end
      work = work + 1 + drop_score(key, object)
      unlink(key)
    end
    for _, key in ipairs(call('ZRANGE', P .. 'f:' .. object, 0, AT_ONCE)) do
      if work > AT_ONCE then return i - 1 end
      work = work + 1
      drop_prediction(key, object)
      unlink(key)
    end
  end
  return #objects
end

-- --- rows of another memory ---

local put = {}

function put.query(key, weight, at, used)
  call('ZADD', P .. 'queries', used, key)
  call('HSET', P .. 'shown', key, pack('<dd', weight, at))
end

function put.text(text, key, asked, at)
  put_text(text, key, asked, at)
  call('ZADD', P .. 'lex', 0, text)
  call('ZADD', P .. 't:' .. key, 0, text)
end

-- A name without the total that it stands behind (an item that was forgotten while the rows were read) goes.
function put.asker(text, principal, weight, at, used)
  if call('HEXISTS', P .. 'texts', text) == 0 then return end
  call('HSET', P .. 'a:' .. text, principal, pack('<ddd', weight, at, used))
  call('ZADD', P .. 'b:' .. principal, 0, 'a' .. text)
end

function put.score(key, object, clicks, at)
  call('HSET', P .. 's:' .. key, object, pack('<dd', clicks, at))
  call('ZADD', P .. 'o:' .. object, 0, key)
  link(key, 's:')
end

function put.contribution(key, object, principal, weight, at, used)
  if call('HEXISTS', P .. 's:' .. key, object) == 0 then return end
  local pair = pair_of(key, object)
  call('HSET', P .. 'c:' .. pair, principal, pack('<ddd', weight, at, used))
  call('ZADD', P .. 'b:' .. principal, 0, 'c' .. pair)
end

function put.person(person, used) call('ZADD', P .. 'people', used, person) end

function put.history(person, _, object, weight, at)
  call('LPUSH', P .. 'h:' .. person, pack('<dd', weight, at) .. object)
end

function put.state(offset, used, at) call('HSET', P .. 'state', 'offset', offset, 'used', used, 'at', at) end

local function put_rows(given)
  limits = given.limits
  for _, row in ipairs(given.rows) do put[row[1]](unpack(row, 2)) end
  return #given.rows
end

return ({apply = apply, predict = predict, forget = forget_items, put = put_rows})[ARGV[1]](cjson.decode(ARGV[2]))
