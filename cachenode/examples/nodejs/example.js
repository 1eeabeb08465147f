'use strict'
// Writes, reads and removes a few keys: node example.js [HOST:PORT], with the token in CACHE_AUTH_TOKEN.

const assert = require('node:assert')
const { Cache } = require('./cache')

async function main () {
  const address = process.argv[2] ?? '127.0.0.1:7071'
  const cache = await Cache.connect(address, { token: process.env.CACHE_AUTH_TOKEN })
  console.log(`connected to ${address}, the leader is ${cache.leader}`)

  await cache.insert('users', 'anna', '42')
  console.log('users/anna is', (await cache.get('users', 'anna')).toString())

  // Many at once: they travel together and are answered as they are done.
  const keys = Array.from({ length: 1000 }, (_, i) => `key-${i}`)
  await Promise.all(keys.map((key, i) => cache.insert('numbers', key, String(i), ['quorum', 'once', 'leader'][i % 3])))
  const values = await Promise.all(keys.map(key => cache.get('numbers', key)))
  assert.deepStrictEqual(values.map(String), keys.map((_, i) => String(i)))
  console.log('1000 values written and read')

  await cache.put('users', 'bert', Buffer.from([0, 255]))
  assert.deepStrictEqual(await cache.get('users', 'bert'), Buffer.from([0, 255]))
  await cache.del('users', 'bert')
  await cache.remove('users', 'anna')
  assert.strictEqual(await cache.get('users', 'anna'), null)
  assert.strictEqual(await cache.get('users', 'bert'), null)
  console.log('removed')
  cache.close()
}

main().catch(err => {
  console.error(err.message)
  process.exitCode = 1
})
