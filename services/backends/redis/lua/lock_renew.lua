#!lua flags=allow-oom
-- KEYS[1] a lock, ARGV[1] the holder's token, ARGV[2] milliseconds. 1 when it is still the holder's, for so long again.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
