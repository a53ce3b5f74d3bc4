-- Changes of the log, applied with the offset that they bring the memory to. KEYS[2] exists while the memory is
-- being copied. ARGV[1]: {limits, offset, seen, changes}. Returns {1, offset}, or, having changed nothing, {0, committed} when
-- `offset` is committed already, {-1, committed} when something else than `seen` is (a negative `seen` is not compared),
-- {-2, committed} while the memory is being copied.

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

local function remember(person, object, weight, at, used)
  if call('ZADD', P .. 'people', used, person) == 1 and call('ZCARD', P .. 'people') > limits.people then
    forget_person(call('ZRANGE', P .. 'people', 0, 0)[1])
  end
  call('LPUSH', P .. 'h:' .. person, pack('<dd', weight, at) .. object)
  call('LTRIM', P .. 'h:' .. person, 0, limits.history - 1)
end

local state = call('HMGET', P .. 'state', 'offset', 'used', 'at')
local committed, used, latest = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[3] or 0)
if request.offset <= committed then return {0, committed} end
if call('EXISTS', KEYS[2]) == 1 then return {-2, committed} end
if request.seen >= 0 and request.seen ~= committed then return {-1, committed} end
-- First: where there is no memory left for writing, this is what is refused.
call('HSET', P .. 'state', 'offset', request.offset)
for _, change in ipairs(request.changes) do
  local at = change.at
  used = used + 1
  latest = math.max(latest, at)
  local query, click, entry = change.shown, change.action, change.history
  if query then shown(query[1], query[2], query[3], at, used) end
  if click then action(click[1], click[2], click[3], click[4], at, used) end
  if entry then remember(entry[1], entry[2], entry[3], at, used) end
  if change.forget then forget('u:' .. change.forget) end
end
call('HSET', P .. 'state', 'used', used, 'at', latest)
return {1, request.offset}
