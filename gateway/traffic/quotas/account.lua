-- One tenant's account, as in account.py, in one step. KEYS[1] is the account. ARGV: what to do; the lease; a number of
-- tokens that is wanted (admit, extend); needed (admit) or used (extend, settle); seconds until the lease is forgotten
-- (admit); the four limits, -1 for none; the time, or an empty text for this server's.
-- Gives: tokens granted (-1: any number), the number of the limit that refused (0: none), the wait in seconds as a text;
-- by limit what is left (-1: no limit), then the seconds until more of it frees, as texts.

local FAIR_TOKENS, SHARE, HELD_SECONDS, NEVER = 64, 8, 1, -1
local KEPT_SECONDS = 2 * 86400

local action, lease = ARGV[1], ARGV[2]
local want, number, lifetime = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local rate, streams = tonumber(ARGV[6]), tonumber(ARGV[7])
local now = tonumber(ARGV[10])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1e6
end

local stored = redis.call('GET', KEYS[1])
local account = stored and cmsgpack.unpack(stored) or {level = 0, filled = 0, running = {}, minute = {}, day = {}}
local minute = {limit = tonumber(ARGV[8]), place = 3, slot = 1, slots = 60, spent = account.minute}
local day = {limit = tonumber(ARGV[9]), place = 4, slot = 900, slots = 96, spent = account.day}
local windows, limited = {minute, day}, {}
for _, window in ipairs(windows) do
  if window.limit >= 0 then limited[#limited + 1] = window end
end

local function forget()
  for _, window in ipairs(windows) do
    local current = math.floor(now / window.slot)
    for slot in pairs(window.spent) do
      if slot < current - window.slots or slot > current + 1 then window.spent[slot] = nil end
    end
  end
  for id, one in pairs(account.running) do
    if one.expires <= now then account.running[id] = nil end
  end
end

local function running()
  local count, held = 0, 0
  for _, one in pairs(account.running) do
    count, held = count + 1, held + one.held
  end
  return count, held
end

local function sum(window)
  local tokens = 0
  for _, each in pairs(window.spent) do tokens = tokens + each end
  return tokens
end

local function until_freed(window, tokens)
  local order = {}
  for slot in pairs(window.spent) do order[#order + 1] = slot end
  table.sort(order)
  local freed, wait = 0, HELD_SECONDS
  for _, slot in ipairs(order) do
    freed = freed + window.spent[slot]
    wait = math.max(0, (slot + window.slots + 1) * window.slot - now)
    if freed >= tokens then break end
  end
  return wait
end

local function share(wanted, need)
  local _, held = running()
  local room
  for _, window in ipairs(limited) do
    local here = window.limit - sum(window) - held
    room = room and math.min(room, here) or here
  end
  if not room then return nil end
  room = math.max(0, room)
  return math.min(wanted, math.max(math.floor(room / SHARE), math.min(room, need - 1 + FAIR_TOKENS)))
end

local function charge(tokens)
  if tokens == 0 then return end
  for _, window in ipairs(windows) do
    local slot = math.floor(now / window.slot)
    window.spent[slot] = (window.spent[slot] or 0) + tokens
  end
end

local refused, longest = 0, 0
local function refuse(place, wait)
  if refused == 0 or (longest ~= NEVER and (wait == NEVER or wait > longest)) then refused, longest = place, wait end
end

local function check(need)
  local count, held = running()
  if rate >= 0 then
    account.level = math.min(rate, account.level + math.max(0, now - account.filled) * rate)
    account.filled = now
    if account.level < 1 then refuse(1, (1 - account.level) / rate) end
  end
  if streams >= 0 and count >= streams then refuse(2, HELD_SECONDS) end
  for _, window in ipairs(limited) do
    local room = window.limit - sum(window) - held
    if need > window.limit then
      refuse(window.place, NEVER)
    elseif room < need then
      refuse(window.place, until_freed(window, need - room))
    end
  end
end

local granted = number
local one = account.running[lease]
if action == 'admit' then
  forget()
  check(number)
  if refused > 0 then
    granted = 0
  else
    account.level = account.level - 1
    granted = share(want, number)
    account.running[lease] = {held = granted or 0, charged = 0, expires = now + lifetime}
  end
elseif action == 'extend' then
  forget()
  one = account.running[lease]
  if one then
    one.held = math.max(0, one.charged + one.held - number)
    charge(number - one.charged)
    one.charged = number
    local more = share(want, 1)
    one.held = one.held + (more or 0)
    granted = more and number + one.held or nil
  end
else
  account.running[lease] = nil
  if one then charge(number - one.charged) end
  forget()
end
redis.call('SET', KEYS[1], cmsgpack.pack(account), 'EX', KEPT_SECONDS)

local function text(seconds) return string.format('%.6f', seconds) end
local left, frees = {-1, -1, -1, -1}, {'-1', '-1', '-1', '-1'}
local count, held = running()
if rate >= 0 then left[1], frees[1] = math.max(0, math.floor(account.level)), '1' end
if streams >= 0 then left[2] = math.max(0, streams - count) end
for _, window in ipairs(limited) do
  left[window.place] = math.max(0, math.min(window.limit, window.limit - sum(window) - held))
  frees[window.place] = text(next(window.spent) and until_freed(window, 1) or window.slot * window.slots)
end
return {granted or -1, refused, text(longest), left[1], left[2], left[3], left[4], frees[1], frees[2], frees[3], frees[4]}
