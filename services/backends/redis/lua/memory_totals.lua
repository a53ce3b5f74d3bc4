-- Totals, the names of those they come from, and what goes when there are too many of them.

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

local function drop_prediction(key, object)
  call('HDEL', P .. 'p:' .. key, object)
  call('ZREM', P .. 'f:' .. object, key)
end

-- Add to what `principal` has given at a place, up to the cap; returns how much that changed the total. Contributions
-- of an unknown principal ('') are neither stored by name nor capped together.
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
  call('ZADD', P .. 'rank', -(log2(math.max(asked, limits.negligible)) + at / limits.half_life), text)
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
