'use strict'
// A client of one node, over one stream. It knows the original protocol only, fields below 16; a node answers it as one
// of redhac would.

const grpc = require('@grpc/grpc-js')
const loader = require('@grpc/proto-loader')
const path = require('node:path')

// The protocol of redhac, word for word. proto/cache.proto has the same messages and hacache's own fields besides.
const PROTO = path.join(__dirname, '../../../proto/testdata/seed.proto')

const TIMEOUT = 5000 // ms; a node answers a write that it cannot place within three seconds

/** An operation was refused, and had no effect: the node answered mod_res = false. */
class Refused extends Error {}

/** Nobody knows whether a write took effect: the stream ended, or the time was up, before the answer came. */
class Unknown extends Error {}

/**
 * Cache is connected to one node. Any node will do, for reads and for writes: it passes writes on to the leader.
 * It does not connect again by itself; when `closed` resolves, make another one, to another node.
 */
class Cache {
  /** Resolves with the first message of the stream, or rejects: no node there, or another token. */
  static connect (address, { token = '', tls = null } = {}) {
    const cache = new Cache(address, token, tls)
    return cache.ready.then(leader => Object.assign(cache, { leader }), err => { cache.close(); throw err })
  }

  constructor (address, token, tls) {
    const proto = grpc.loadPackageDefinition(loader.loadSync(PROTO, { keepCase: true, oneofs: true, longs: String })).cache
    // tls: {ca, key, cert, name}, PEM in Buffers; name is what the certificates of the nodes are issued to. A client
    // may check another name than that of the address, since all nodes may have the same certificate.
    const credentials = tls ? grpc.credentials.createSsl(tls.ca, tls.key, tls.cert) : grpc.credentials.createInsecure()
    const options = tls ? { 'grpc.ssl_target_name_override': tls.name ?? 'redhac.local' } : {}
    this.client = new proto.Cache(address, credentials, options)
    const metadata = new grpc.Metadata()
    if (token) metadata.set('authorization', token) // the bare token, as redhac sends it
    this.stream = this.client.StreamValues(metadata)
    this.nextId = 0
    this.writes = new Map() // request id -> waiter
    this.reads = new Map() // cache and key -> waiters, first come first served: a Get has no id, and its answers keep their order
    this.ready = new Promise((resolve, reject) => { this.onReady = resolve; this.onRefused = reject })
    this.closed = new Promise(resolve => { this.onClosed = resolve })
    this.stream.on('data', ack => this.receive(ack))
    this.stream.on('error', err => this.end(err))
    this.stream.on('end', () => this.end(new Error('the node ended the stream')))
  }

  receive (ack) {
    switch (ack.method) {
      case 'mgmt_ack': // LeaderInfo comes first on every stream
        if (ack.mgmt_ack.leader_info) this.onReady(ack.mgmt_ack.leader_info.addr ?? '')
        break
      case 'get_ack': {
        const key = place(ack.get_ack.cache_name, ack.get_ack.entry)
        const waiters = this.reads.get(key) ?? []
        waiters.shift()?.resolve(ack.get_ack.value ?? null)
        if (waiters.length === 0) this.reads.delete(key)
        break
      }
      case 'put_ack':
      case 'del_ack': {
        const { req_id: id, mod_res: done } = ack[ack.method]
        const waiter = this.writes.get(id)
        this.writes.delete(id)
        if (done) waiter?.resolve()
        else waiter?.reject(new Refused('the cluster could not take it'))
        break
      }
      case 'error': // of the original protocol: it names no request, so nothing else can be trusted either
        this.end(new Error(ack.error.error))
    }
  }

  /** Ends everything that waits; err says why. */
  end (err) {
    this.onRefused(err)
    for (const w of this.writes.values()) w.reject(new Unknown(err.message))
    for (const list of this.reads.values()) for (const w of list) w.reject(err)
    this.writes.clear()
    this.reads.clear()
    this.onClosed(err)
  }

  close () {
    this.stream.cancel()
    this.client.close()
  }

  /** The value as a Buffer, or null for a miss. A node whose copy may be too old answers a miss too. */
  get (cache, key) {
    const read = pending(() => new Error('no answer in time'))
    const waiters = this.reads.get(place(cache, key)) ?? []
    this.reads.set(place(cache, key), waiters)
    waiters.push(read) // one that timed out stays, so that a late answer finds its own place
    this.stream.write({ get: { cache_name: cache, entry: key } })
    return read.promise
  }

  /** Resolves when the level has it: quorum (majority of the nodes), once (leader and one more) or leader. */
  insert (cache, key, value, level = 'quorum') {
    return this.write('insert', { cache_name: cache, entry: key, value: Buffer.from(value), ack_level: { [`level_${level}`]: {} } })
  }

  remove (cache, key, level = 'quorum') {
    return this.write('remove', { cache_name: cache, entry: key, ack_level: { [`level_${level}`]: {} } })
  }

  /** Resolves when this node has it, before it is replicated. */
  put (cache, key, value) {
    return this.write('put', { cache_name: cache, entry: key, value: Buffer.from(value) })
  }

  del (cache, key) {
    return this.write('del', { cache_name: cache, entry: key })
  }

  write (kind, message) {
    const id = String(++this.nextId)
    const write = pending(() => { this.writes.delete(id); return new Unknown('no answer in time') })
    this.writes.set(id, write)
    this.stream.write({ [kind]: { ...message, req_id: id } })
    return write.promise
  }
}

/** place is a key of this.reads: names may hold anything, so they are joined in a way that can be told apart. */
const place = (cache, key) => JSON.stringify([cache, key])

/** A promise with its two ends, that is rejected with late() when the time is up. */
function pending (late) {
  const p = {}
  p.promise = new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(late()), TIMEOUT)
    p.resolve = v => { clearTimeout(timer); resolve(v) }
    p.reject = e => { clearTimeout(timer); reject(e) }
  })
  return p
}

module.exports = { Cache, Refused, Unknown }
