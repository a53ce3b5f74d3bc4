#!lua flags=allow-oom
-- Notes a dead letter, once for each offset. KEYS[1] the log, ARGV[1] offset, ARGV[2] reason, ARGV[3] how many to keep.
local dead, buried = KEYS[1] .. ':dead', KEYS[1] .. ':buried'
if redis.call('SADD', buried, ARGV[1]) == 1 then
    redis.call('XADD', dead, '*', 'offset', ARGV[1], 'reason', ARGV[2])
    while redis.call('XLEN', dead) > tonumber(ARGV[3]) do
        local oldest = redis.call('XRANGE', dead, '-', '+', 'COUNT', 1)[1]
        redis.call('SREM', buried, oldest[2][2])
        redis.call('XDEL', dead, oldest[1])
    end
end
return redis.status_reply('OK')
