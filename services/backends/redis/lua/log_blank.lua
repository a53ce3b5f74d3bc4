#!lua flags=allow-oom
-- Replaces records of a user by blanked ones, in place: a reader sees the one or the other.
-- KEYS[1] the log, ARGV[1] user id, ARGV[2] pseudonym, then offset and body for each. Returns how many were the user's
-- still. Under the pseudonym log_append.lua knows what must not be made from the old record any more.
local log, user, pseudonym = KEYS[1], ARGV[1], ARGV[2]
local blanked = 0
for i = 3, #ARGV, 2 do
    local offset = ARGV[i]
    if redis.call('HGET', log .. ':users', offset) == user then
        redis.call('HSET', log .. ':records', offset, ARGV[i + 1])
        redis.call('HDEL', log .. ':users', offset)
        redis.call('HSET', log .. ':blanked', offset, pseudonym)
        blanked = blanked + 1
    end
    redis.call('ZREM', log .. ':people:' .. user, offset)
end
return blanked
