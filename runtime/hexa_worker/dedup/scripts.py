"""What `hexa_worker.core.claims` says, in Lua: Redis answers a whole batch in one call.

A claim is a string: ``d:FENCE`` done, ``r:FENCE:ATTEMPT`` retrying, ``h:FENCE:ATTEMPT:OWNER`` held; expiry is Redis's
own. Arguments and answers travel as one MessagePack text each, which is cheaper on both sides than many small ones.
"""

_PARSE = """
local given = cmsgpack.unpack(ARGV[1])
local lease = tostring(given[1])
local asked = given[2]
local found = redis.call('MGET', unpack(KEYS))
local seen = {}
local answers = {}
local function parse(i)
  local value = seen[KEYS[i]]
  if value == nil then value = found[i] end
  if not value then return nil end
  return string.match(value, '^(%a):(%d+):?(%d*):?(.*)$')
end
local function keep(i, value, ttl)
  redis.call('SET', KEYS[i], value, 'PX', ttl)
  seen[KEYS[i]] = value
end
local function number(value) return string.format('%.0f', value) end
"""

CLAIM = (
    _PARSE
    + """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
for i = 1, #KEYS do
  local owner, attempt = asked[2 * i - 1], asked[2 * i]
  local phase, fence, at, by = parse(i)
  fence = tonumber(fence)
  if phase == 'd' or (phase == 'r' and attempt < tonumber(at)) then
    answers[i] = -1
  elseif phase == 'h' and by ~= owner then
    answers[i] = 0
  else
    if phase ~= 'h' then fence = math.max(now, (fence or 0) + 1) else attempt = at end
    keep(i, 'h:' .. number(fence) .. ':' .. attempt .. ':' .. owner, lease)
    answers[i] = fence
  end
end
return cmsgpack.pack(answers)
"""
)

END = (
    _PARSE
    + """
for i = 1, #KEYS do
  local owner, own, following, ttl = asked[4 * i - 3], asked[4 * i - 2], asked[4 * i - 1], asked[4 * i]
  local phase, fence, at, by = parse(i)
  if phase and phase ~= 'h' then
    answers[i] = tonumber(fence) == own
  elseif phase and by ~= owner then
    answers[i] = false
  else
    answers[i] = true
    if following < 0 then
      keep(i, 'd:' .. number(own), ttl)
    elseif following == 0 then
      redis.call('DEL', KEYS[i])
      seen[KEYS[i]] = false
    else
      keep(i, 'r:' .. number(own) .. ':' .. following, ttl)
    end
  end
end
return cmsgpack.pack(answers)
"""
)

EXTEND = (
    _PARSE
    + """
for i = 1, #KEYS do
  local owner, own, attempt = asked[3 * i - 2], asked[3 * i - 1], asked[3 * i]
  local phase, fence, at, by = parse(i)
  if phase and (phase ~= 'h' or by ~= owner) then
    answers[i] = false
  else
    answers[i] = true
    keep(i, 'h:' .. number(own) .. ':' .. attempt .. ':' .. owner, lease)
  end
end
return cmsgpack.pack(answers)
"""
)
