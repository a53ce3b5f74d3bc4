#!lua flags=allow-oom
-- Notes how far a consumer is, as a consumer group of the stream, and drops some of the oldest records that no group
-- needs any more. KEYS[1] the log, ARGV[1] consumer, ARGV[2] offset, ARGV[3] seconds of log time for which records are
-- kept ("" for ever), ARGV[4] how many to drop at most. Returns how many were dropped.
local log, consumer, retention, most = KEYS[1], ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local ending = redis.call('HMGET', log .. ':end', 'offset', 'at')
local last, latest = tonumber(ending[1] or '0'), tonumber(ending[2] or '0')
local offset = math.min(tonumber(ARGV[2]), last)

local function id(number)
    return string.format('%.0f-0', number)
end

local function number(of)
    return tonumber(string.match(of, '^%d+'))
end

local function groups()
    local found = {}
    if redis.call('EXISTS', log) == 1 then
        for _, group in ipairs(redis.call('XINFO', 'GROUPS', log)) do
            local fields = {}
            for i = 1, #group, 2 do
                fields[group[i]] = group[i + 1]
            end
            found[fields['name']] = fields
        end
    end
    return found
end

local mine = groups()[consumer]
if not mine then
    redis.call('XGROUP', 'CREATE', log, consumer, id(offset), 'MKSTREAM', 'ENTRIESREAD', offset)
elseif number(mine['last-delivered-id']) < offset then
    redis.call('XGROUP', 'SETID', log, consumer, id(offset), 'ENTRIESREAD', offset)
end
if not retention then
    return 0
end

local done = last
for name, group in pairs(groups()) do
    done = math.min(done, number(group['last-delivered-id']))
    if group['pending'] > 0 then
        done = math.min(done, number(redis.call('XPENDING', log, name)[2]) - 1)
    end
end
if done < 1 then
    return 0
end

local dropped, highest = 0, 0
for _, entry in ipairs(redis.call('XRANGE', log, '-', id(done), 'COUNT', most)) do
    local kind, at, query = entry[2][2], entry[2][4], entry[2][6]
    if tonumber(at) >= latest - retention then -- Always so for the last record.
        break
    end
    highest = number(entry[1])
    dropped = dropped + 1
    local key = string.format('%.0f', highest)
    local user = redis.call('HGET', log .. ':users', key)
    if user then
        redis.call('ZREM', log .. ':people:' .. user, key)
        redis.call('HDEL', log .. ':users', key)
    end
    if kind == '1' then
        redis.call('HDEL', log .. ':impressions', query)
    elseif kind == '2' and query ~= '' then
        redis.call('LREM', log .. ':answers:' .. query, 1, key)
    end
    redis.call('HDEL', log .. ':records', key)
    redis.call('HDEL', log .. ':blanked', key)
end
if dropped > 0 then
    redis.call('XTRIM', log, 'MINID', '=', id(highest + 1))
end
return dropped
