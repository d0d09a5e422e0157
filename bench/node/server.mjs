// The decision of the load bench in Node with fastify: what bench/src/native.rs does, in one process, profiles in V8's own heap.
// Usage: node server.mjs PROFILES OFFERS, files that the bench writes.

import { openSync, readFileSync, readSync } from 'node:fs'
import Fastify from 'fastify'

const [, , profilesPath, offersPath] = process.argv
const { numbers: NUMBERS, codes: CODES, offers, levels, end } = JSON.parse(readFileSync(offersPath, 'utf8'))

// As tests/guests/bench/src/judge.rs has them.
const WEIGHTS = Array.from({ length: NUMBERS }, (_, index) => {
  const size = ((index * 37) % 101) / 1e4
  return index % 2 === 0 ? size : -size
})
const LEVEL = [-0.2, -0.05, 0.05, 0.2, 0.0]

function propensity (numbers, codes) {
  let ofNumbers = 0
  for (let index = 0; index < numbers.length; index++) ofNumbers += numbers[index] * WEIGHTS[index]
  let ofCodes = 0
  for (let index = 0; index < codes.length; index++) ofCodes += LEVEL[codes[index]]
  return 1 / (1 + Math.exp(-(ofNumbers / 10 + ofCodes)))
}

function priority (propensity, taste, value, category) {
  const liked = category === taste ? 1.5 : 1
  return liked * (value * propensity + 1 - propensity)
}

// A visitor is so many numbers, little-endian, then a byte for each code.
function load (path) {
  const profiles = new Map()
  const bytes = Buffer.alloc(NUMBERS * 8 + CODES)
  const file = openSync(path)
  while (readSync(file, bytes, 0, bytes.length, null) === bytes.length) {
    const numbers = Array.from({ length: NUMBERS }, (_, index) => bytes.readDoubleLE(8 * index))
    const codes = Array.from(bytes.subarray(8 * NUMBERS))
    profiles.set('u-' + String(profiles.size).padStart(7, '0'), { numbers, codes })
  }
  return profiles
}

const profiles = load(profilesPath)
const app = Fastify({ logger: false })
const text = { type: 'string' }
const body = {
  type: 'object',
  required: ['visitor', 'slots'],
  properties: {
    visitor: { type: 'object', required: ['userId'], properties: { userId: text } },
    slots: { type: 'array', items: { type: 'object', required: ['slot', 'count'], properties: { slot: text, count: { type: 'integer' } } } }
  }
}
const offer = {
  type: 'object',
  properties: {
    id: text,
    priority: { type: 'number' },
    rank: { type: 'integer' },
    category: text,
    content: { type: 'object', properties: { image: text, price: text, text, title: text } },
    reasons: { type: 'array', items: text }
  }
}
const slot = { type: 'object', properties: { slot: text, fallback: { type: 'boolean' }, offers: { type: 'array', items: offer } } }
const answer = { type: 'object', properties: { decisionId: text, slots: { type: 'array', items: slot }, meta: {} } }

app.post('/v1/decide', { schema: { body, response: { 200: answer } } }, (request, reply) => {
  const call = request.body
  const profile = profiles.get(call.visitor.userId)
  if (profile === undefined) return reply.code(400).send()
  const score = propensity(profile.numbers, profile.codes)
  const taste = profile.codes[0]
  const ranked = offers.map((offer) => ({ offer, priority: priority(score, taste, offer.value, offer.category) }))
  ranked.sort((one, other) => other.priority - one.priority)
  let next = 0
  const slots = call.slots.map(({ slot, count }) => {
    const shown = ranked.slice(next, next + count).map(({ offer, priority }, place) => ({
      id: offer.id,
      priority,
      rank: place + 1,
      category: levels[offer.category],
      content: offer.content,
      reasons: [offer.category === taste ? 'liked' : 'valuable']
    }))
    next += shown.length
    return { slot, fallback: shown.length === 0, offers: shown }
  })
  reply.send({ decisionId: '01234567-89ab-cdef-0123-456789abcdef', slots, meta: end })
})

const address = await app.listen({ host: '127.0.0.1', port: 0 })
console.log(JSON.stringify({ ready: true, public: address }))
