#!lua
-- Puts records back as they were in another log. KEYS[1] the log. ARGV holds six values for each, by ascending offsets:
-- offset, kind, at, query id, user id, body. What lies before the end of the log is there already. See log_append.lua.
local log = KEYS[1]
local IMPRESSION, INTERACTION = '1', '2'
local last = tonumber(redis.call('HGET', log .. ':end', 'offset') or '0')
for i = 1, #ARGV, 6 do
    local offset, kind, at, query, user, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
    if tonumber(offset) > last then
        last = tonumber(offset)
        redis.call('XADD', log, offset .. '-0', 'kind', kind, 'at', at, 'query', query)
        redis.call('HSET', log .. ':records', offset, body)
        redis.call('HSET', log .. ':end', 'offset', offset, 'at', at)
        if user ~= '' then
            redis.call('HSET', log .. ':users', offset, user)
            redis.call('ZADD', log .. ':people:' .. user, offset, offset)
        end
        if kind == IMPRESSION then
            redis.call('HSET', log .. ':impressions', query, offset)
        elseif kind == INTERACTION and query ~= '' then
            redis.call('RPUSH', log .. ':answers:' .. query, offset)
        end
    end
end
return redis.status_reply('OK')
