-- Taking out what a person contributed.

local function forget_person(person)
  call('ZREM', P .. 'people', person)
  call('DEL', P .. 'h:' .. person)
end

local function take_out_clicks(pair, principal, touched)
  local key, object = split_pair(pair)
  touched[key] = true
  local where = P .. 'c:' .. pair
  local weight, at = read('<dd', call('HGET', where, principal))
  call('HDEL', where, principal)
  local clicks, since = read('<dd', call('HGET', P .. 's:' .. key, object))
  clicks, since = add(clicks, since, -weight, at)
  if call('EXISTS', where) == 0 and math.abs(clicks) < limits.negligible then
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
  if asked < limits.negligible then drop_text(key, text) else put_text(text, key, asked, since) end
  add_shown(key, -weight, at, 0)
end

-- Take out what a person contributed; a query or score without any other contributor is dropped.
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
