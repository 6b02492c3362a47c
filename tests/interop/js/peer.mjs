// A js-libp2p peer that does what JSON lines on its stdin say, and answers on its stdout.
// Usage: node peer.mjs '{"listen": ["/ip4/127.0.0.1/tcp/0"], "relay": false}'
import './polyfill.mjs'
import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { autoNAT } from '@libp2p/autonat'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { dcutr } from '@libp2p/dcutr'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping' // it answers ours
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const ECHO = '/test/echo/1'
// Relayed connections carry little and short; a stream must say that it will do with that.
const ANYWHERE = { runOnLimitedConnection: true }

const settings = JSON.parse(process.argv[2])
const services = { identify: identify(), ping: ping() }
if (settings.relay) services.relay = circuitRelayServer()
// These two dial on their own account, which tests of other things do without.
if (settings.reach) Object.assign(services, { autonat: autoNAT(), dcutr: dcutr() })

const node = await createLibp2p({
  addresses: { listen: settings.listen },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services
})

async function send (stream, data) {
  if (!stream.send(data)) await stream.onDrain()
}

async function echo (stream) {
  for await (const part of stream) await send(stream, part.subarray())
  await stream.close()
}
await node.handle(ECHO, (stream) => { echo(stream).catch((err) => stream.abort(err)) }, ANYWHERE)

const identified = new Map()
node.addEventListener('peer:identify', ({ detail }) => {
  identified.set(detail.peerId.toString(), detail)
})

// The same bytes as pattern() in the Python tests: a counter, so that lost or swapped parts show.
function pattern (sizeBytes) {
  const words = new Uint32Array(sizeBytes / 4)
  for (let i = 0; i < words.length; i++) words[i] = i
  return new Uint8Array(words.buffer)
}

const commands = {
  addresses: async () => node.getMultiaddrs().map(String),

  connect: async ({ address }) => {
    const connection = await node.dial(multiaddr(address))
    return { peer: connection.remotePeer.toString(), limited: connection.limits != null }
  },

  listen: async ({ address }) => {
    await node.components.transportManager.listen([multiaddr(address)])
    return node.getMultiaddrs().map(String)
  },

  // Whether somebody has dialed this address of ours back.
  verified: async ({ address }) => {
    const isIt = ({ multiaddr, verified }) => verified && multiaddr.toString().startsWith(address)
    while (!node.components.addressManager.getAddressesWithMetadata().some(isIt)) await sleep(50)
    return true
  },

  paths: async ({ peer }) => node.getConnections()
    .filter((one) => one.remotePeer.toString() === peer)
    .map((one) => (one.limits != null ? 'relayed' : 'direct')),

  identified: async ({ peer }) => {
    while (!identified.has(peer)) await sleep(10)
    const seen = identified.get(peer)
    return {
      agent: seen.agentVersion,
      protocols: seen.protocols,
      observed: seen.observedAddr?.toString(),
      listening: seen.listenAddrs.map(String),
      keyType: seen.peerId.type
    }
  },

  // By hand: the ping service dials anew where it can, and this shall test the connection we have.
  ping: async ({ peer }) => {
    const stream = await connectionTo(peer).newStream('/ipfs/ping/1.0.0', ANYWHERE)
    const sent = Uint8Array.from({ length: 32 }, (_, i) => i * 7)
    stream.send(sent)
    let received = []
    for await (const part of stream) {
      received = received.concat(...part.subarray())
      if (received.length >= sent.length) break
    }
    await stream.close()
    return received.join() === sent.join()
  },

  // Sends everything and ends, then waits before it reads: the other side must bear with us.
  echo: async ({ peer, sizeBytes, pauseMs = 0 }) => {
    const connection = connectionTo(peer)
    const stream = await connection.newStream(ECHO, ANYWHERE)
    if (pauseMs > 0) stream.pause()
    const data = pattern(sizeBytes)
    const sending = (async () => {
      for (let at = 0; at < data.length; at += 65536) await send(stream, data.subarray(at, at + 65536))
      await stream.close()
    })()
    if (pauseMs > 0) {
      await sleep(pauseMs)
      stream.resume()
    }
    const digest = createHash('sha256')
    let received = 0
    for await (const part of stream) {
      received += part.byteLength
      digest.update(part.subarray())
    }
    await sending
    return { received, sha256: digest.digest('hex'), limited: connection.limits != null }
  }
}

function connectionTo (peer) {
  const found = node.getConnections().find((one) => one.remotePeer.toString() === peer)
  if (found === undefined) throw new Error(`not connected to ${peer}`)
  return found
}

const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n')
say({ peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) })
for await (const line of createInterface({ input: process.stdin })) {
  const { id, command, ...options } = JSON.parse(line)
  commands[command](options).then(
    (result) => say({ id, result: result ?? null }),
    (err) => say({ id, error: `${err.name}: ${err.message}` })
  )
}
// Whoever started us is gone.
process.exit(0)
