-- Finding a query from the queries that are a word or two away from it.

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
  if count >= limits.two_deletions[1] and count <= limits.two_deletions[2] then
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
