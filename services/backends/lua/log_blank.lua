#!lua flags=allow-oom
-- Replaces records of a user by blanked ones, in place: a reader sees the one or the other.
-- KEYS[1] the log, ARGV[1] user id, then offset and body for each. Returns how many were the user's still.
local log, user = KEYS[1], ARGV[1]
local blanked = 0
for i = 2, #ARGV, 2 do
    local offset = ARGV[i]
    if redis.call('HGET', log .. ':users', offset) == user then
        redis.call('HSET', log .. ':records', offset, ARGV[i + 1])
        redis.call('HDEL', log .. ':users', offset)
        blanked = blanked + 1
    end
    redis.call('ZREM', log .. ':people:' .. user, offset)
end
return blanked
