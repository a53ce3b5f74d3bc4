-- Forgets items, as many as fit into one run. ARGV[1]: {limits, items: [object_id, ...]}. Returns how many were forgotten.
-- Histories keep their entries: they say what a person did, and a catalogue often takes an item back.
local MAX_CONTRIBUTIONS = 5000 -- that one run takes out with their items

local work = 0
for i, object in ipairs(request.items) do
  for _, key in ipairs(call('ZRANGE', P .. 'o:' .. object, 0, MAX_CONTRIBUTIONS)) do
    if work > MAX_CONTRIBUTIONS then return i - 1 end
    work = work + 1 + drop_score(key, object)
    unlink(key)
  end
  for _, key in ipairs(call('ZRANGE', P .. 'f:' .. object, 0, MAX_CONTRIBUTIONS)) do
    if work > MAX_CONTRIBUTIONS then return i - 1 end
    work = work + 1
    drop_prediction(key, object)
    unlink(key)
  end
end
return #request.items
