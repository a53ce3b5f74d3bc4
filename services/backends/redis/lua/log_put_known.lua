#!lua
-- Remembers again what counts every event once. KEYS[1] the log. ARGV holds four values for each: "event", event id,
-- digest, seconds; or "counted", query id, action on an object, seconds. See log_append.lua.
local log = KEYS[1]
for i = 1, #ARGV, 4 do
    local name, value, seconds = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    if ARGV[i] == 'event' then
        redis.call('SET', log .. ':event:' .. name, value, 'EX', seconds)
    else
        local counted = log .. ':counted:' .. name
        redis.call('SADD', counted, value)
        if redis.call('TTL', counted) < tonumber(seconds) then
            redis.call('EXPIRE', counted, seconds)
        end
    end
end
return redis.status_reply('OK')
