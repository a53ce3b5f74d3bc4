-- Replaces what is predicted for some items. ARGV[1]: {limits, items: [[object_id, [[key, score], ...]], ...]}.
-- Returns how many items there were.

for _, item in ipairs(request.items) do
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
return #request.items
