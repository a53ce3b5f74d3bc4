#!lua
-- Appends records to the log, all of a call in one step. Refused as a whole when the server is out of memory.
-- KEYS[1] the log. ARGV[1] seconds for which events are remembered, ARGV[2] a user who must have no record left ("" for
-- none), then ten for each record: kind, at, query id, user id, body, event id, digest, status, action on an object, and
-- the query id of the answer that the record was made from ("" when nothing of a person came from there).
-- Without an event id a record is not checked for duplicates.
-- Returns a word, the offset of the last Forget, and what the word asks for:
--   done     for each record {offset, at}, or why it was not appended
--   blanked  for each record the pseudonym with which its answer was blanked, or ""; nothing was appended
--   left     nothing; nothing was appended, since the user has records left
local log = KEYS[1]
local remember, alone = ARGV[1], ARGV[2]
local IMPRESSION, INTERACTION, FORGET = '1', '2', '4'

local ending = redis.call('HMGET', log .. ':end', 'offset', 'at', 'forget')
local last, latest, forget = tonumber(ending[1] or '0'), ending[2] or '0.0', ending[3] or '0'

if alone ~= '' and redis.call('EXISTS', log .. ':people:' .. alone) == 1 then
    return {'left', forget}
end

local pseudonyms, blanked = {'blanked', forget}, false
for i = 3, #ARGV, 10 do
    local answer = ARGV[i + 9]
    local of = answer ~= '' and redis.call('HGET', log .. ':impressions', answer)
    local pseudonym = of and redis.call('HGET', log .. ':blanked', of)
    pseudonyms[#pseudonyms + 1] = pseudonym or ''
    blanked = blanked or pseudonym
end
if blanked then
    return pseudonyms
end

local function append(kind, at, query, user, body)
    if tonumber(at) < tonumber(latest) then
        at = latest
    end
    last, latest = last + 1, at
    local offset = string.format('%.0f', last)
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
    elseif kind == FORGET then
        forget = offset
        redis.call('HSET', log .. ':end', 'forget', offset)
    end
    return {offset, at}
end

local function accept(event, digest, status, action, kind, at, query, user, body)
    local key = log .. ':event:' .. event
    local known = redis.call('GET', key)
    if known then
        return known == digest and 'duplicate' or 'invalid'
    end
    if status ~= 'accepted' and status ~= 'late' then
        return status
    end
    redis.call('SET', key, digest, 'EX', remember)
    if query ~= '' then
        local counted = log .. ':counted:' .. query
        if redis.call('SISMEMBER', counted, action) == 1 then
            return 'duplicate'
        end
        if status == 'accepted' then
            redis.call('SADD', counted, action)
            redis.call('EXPIRE', counted, remember)
        end
    end
    return append(kind, at, query, user, body)
end

local results = {'done', forget}
for i = 3, #ARGV, 10 do
    local kind, at, query, user, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
    local event, digest, status, action = ARGV[i + 5], ARGV[i + 6], ARGV[i + 7], ARGV[i + 8]
    local result
    if event ~= '' then
        result = accept(event, digest, status, action, kind, at, query, user, body)
    elseif kind == IMPRESSION and redis.call('HEXISTS', log .. ':impressions', query) == 1 then
        result = 'known'
    else
        result = append(kind, at, query, user, body)
    end
    results[#results + 1] = result
end
results[2] = forget -- Perhaps one of these records.
return results
