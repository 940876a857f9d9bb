"""What Redis runs: the scripts, in Lua.

- Redis runs a script alone: positions are compared, rows written and positions moved, with nobody in between.
- A script that fails leaves the positions where they were. Redis takes back nothing, so the first write of all is one
  that Redis refuses when it is out of memory, and what may fail later is looked at before: the types of its keys.
- Versions are compared as text: Lua's numbers have 53 bits, and positions in the logs of databases more.
- JSON is never decoded, for the same reason: a member's text is taken over as it stands.
"""

_BEGIN = rb"""
local positions, stream = KEYS[1], KEYS[2]
local at = 0
local function take() at = at + 1; return ARGV[at] end

local function check(key, wanted)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= wanted then
    return redis.error_reply('HEADRACEKEY ' .. key .. ' holds a ' .. kind .. ', not a ' .. wanted)
  end
end
"""

_VERSIONS = rb"""
local form, field = take(), take()

-- What a row of another kind answers is a table.
local function text_of(answer) return type(answer) == 'string' and answer or nil end

local function version_of(key)
  local held
  if form == 'json' then
    held = text_of(redis.pcall('GET', key))
    return held and string.match(held, '"' .. field .. '":(%d+)}$')
  end
  held = text_of(redis.pcall('HGET', key, field))
  return held and string.match(held, '^%d+$')
end

local function is_less(left, right)
  if #left ~= #right then return #left < #right end
  return left < right
end
"""

_MEMBERS = rb"""
local function past_string(text, quote)
  local from = quote + 1
  while true do
    local found = string.find(text, '["\\]', from)
    if not found then return nil end
    if string.sub(text, found, found) == '"' then return found + 1 end
    from = found + 2
  end
end

local function past_value(text, from)
  local depth = 0
  while from do
    local found, _, mark = string.find(text, '(["%[%]{},])', from)
    if not found then return nil end
    if mark == '"' then
      from = past_string(text, found)
    else
      if depth == 0 and (mark == ',' or mark == '}') then return found end
      if mark == '[' or mark == '{' then depth = depth + 1 end
      if mark == ']' or mark == '}' then depth = depth - 1 end
      from = found + 1
    end
  end
end

-- Names in quotes, and the text of each value. None for what is no object as headrace writes it.
local function members(text)
  local names, values = {}, {}
  local from = 2
  while string.sub(text, from, from) == '"' do
    local colon = past_string(text, from)
    local stop = colon and past_value(text, colon + 1)
    if not stop then return {}, {} end
    names[#names + 1] = string.sub(text, from, colon - 1)
    values[names[#names]] = string.sub(text, colon + 1, stop - 1)
    from = stop + 1
  end
  return names, values
end

-- `text`, with the members `left` as they are in `held`.
local function merged(text, held, left)
  local names, values = members(text)
  local _, before = members(held)
  for name in pairs(left) do values[name] = before[name] or values[name] end
  local parts = {}
  for index, name in ipairs(names) do parts[index] = name .. ':' .. values[name] end
  return '{' .. table.concat(parts, ',') .. '}'
end
"""

SCRIPT = (
    _BEGIN
    + _VERSIONS
    + _MEMBERS
    + rb"""
local ttl, rows_max, count = tonumber(take()), tonumber(take()), tonumber(take())
local wrong = check(positions, 'hash') or (stream and check(stream, 'stream'))
if wrong then return wrong end

local moves = {}
for _ = 1, count do
  local partition, expected, following = take(), take(), take()
  local held = redis.call('HGET', positions, partition) or ''
  if held ~= expected then return {partition, held} end
  moves[#moves + 1] = partition
  moves[#moves + 1] = following
end

local function is_fresh(key, version)
  local held = version_of(key)
  return not (held and is_less(version, held))
end

local function set(key, text)
  if ttl > 0 then redis.call('SET', key, text, 'EX', ttl) else redis.call('SET', key, text) end
end

redis.call('HSET', positions, 'writing', '1')
while at < #ARGV do
  local kind, key = take(), take()
  local writes = field == '' or is_fresh(key, take())
  if kind == 'D' then
    if writes then redis.call('UNLINK', key) end
  elseif kind == 'S' then
    local text = take()
    if writes then set(key, text) end
  elseif kind == 'M' then
    local text, left = take(), {}
    for _ = 1, tonumber(take()) do left[take()] = true end
    if writes then
      local held = text_of(redis.pcall('GET', key))
      set(key, held and merged(text, held, left) or text)
    end
  else
    local gone, first = 0, 0
    if kind == 'P' then
      gone = tonumber(take())
      first = at + 1
      at = at + gone
    end
    local length = tonumber(take())
    if kind == 'X' then
      if rows_max > 0 then
        redis.call('XADD', key, 'MAXLEN', '~', rows_max, '*', unpack(ARGV, at + 1, at + length))
      else
        redis.call('XADD', key, '*', unpack(ARGV, at + 1, at + length))
      end
    elseif writes then
      -- A row that leaves fields alone leaves its key alone too, unless that is no row.
      if kind == 'H' or redis.call('TYPE', key).ok ~= 'hash' then redis.call('UNLINK', key) end
      if gone > 0 then redis.call('HDEL', key, unpack(ARGV, first, first + gone - 1)) end
      redis.call('HSET', key, unpack(ARGV, at + 1, at + length))
      if ttl > 0 then redis.call('EXPIRE', key, ttl) end
    end
    at = at + length
  end
end
redis.call('HDEL', positions, 'writing')
if #moves > 0 then redis.call('HSET', positions, unpack(moves)) end
return 'OK'
"""
)

EMPTY_SCRIPT = (
    _BEGIN
    + _VERSIONS
    + rb"""
local version, pattern, cursor, keys, count = take(), take(), take(), take(), tonumber(take())
for _ = 1, count do
  local partition, expected = take(), take()
  local held = redis.call('HGET', positions, partition) or ''
  if held ~= expected then return {partition, held} end
end

local found = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', keys)
for _, key in ipairs(found[2]) do
  local held = version_of(key)
  if not held or is_less(held, version) then redis.call('UNLINK', key) end
end
return found[1]
"""
)
"""One step of the removal of rows that are older than a version: it answers where the next one begins, `0` at the end.
Redis promises that all keys are seen which are there from the first step to the last. Positions stay where they are, so
after a crash it begins anew."""

CHECK_SCRIPT = (
    _BEGIN
    + rb"""
local refused = {}
while at < #ARGV do
  local length = tonumber(take())
  -- Since Redis 7.0; an older one tells of a missing right when a row comes.
  if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(ARGV, at + 1, at + length)) then
    refused[#refused + 1] = ARGV[at + 1]
  end
  at = at + length
end
if #refused > 0 then return refused end
return check(positions, 'hash') or (stream and check(stream, 'stream')) or refused
"""
)
"""Writes nothing. Its arguments are commands, each behind their number; it returns the names of those that the user may
not run."""
