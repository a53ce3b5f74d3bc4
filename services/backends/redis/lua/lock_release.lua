#!lua flags=allow-oom
-- KEYS[1] a lock, ARGV[1] the holder's token. 1 when it was the holder's.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
