-- Puts back rows of another memory (see MemoryRow). ARGV[1]: {limits, rows}. Returns how many there were.

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

for _, row in ipairs(request.rows) do put[row[1]](unpack(row, 2)) end
return #request.rows
