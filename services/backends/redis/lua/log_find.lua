#!lua flags=no-writes
-- What was logged of one answer. KEYS[1] the log, ARGV[1] kind of record, ARGV[2] query id.
-- Returns {offset, at, body} for each record, in log order; the body is false when it is lost.
local log = KEYS[1]
local offsets
if ARGV[1] == '1' then
    offsets = {redis.call('HGET', log .. ':impressions', ARGV[2]) or nil}
else
    offsets = redis.call('LRANGE', log .. ':answers:' .. ARGV[2], 0, -1)
end
local found = {}
for _, offset in ipairs(offsets) do
    local entry = redis.call('XRANGE', log, offset .. '-0', offset .. '-0')[1]
    local at = entry and entry[2][4] or '0.0'
    found[#found + 1] = {offset, at, redis.call('HGET', log .. ':records', offset)}
end
return found
