#!lua flags=allow-oom
-- Takes a lease that nobody holds. KEYS[1] the lease, KEYS[2] its epoch, ARGV[1] milliseconds.
-- Returns the number of the new epoch, 0 when somebody holds the lease.
if redis.call('EXISTS', KEYS[1]) == 1 then
    return 0
end
local epoch = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], epoch, 'PX', ARGV[1])
return epoch
