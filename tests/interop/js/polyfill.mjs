// What js-libp2p expects of newer Node.js versions than the one that Debian's users have.
if (Promise.withResolvers === undefined) {
  Promise.withResolvers = function () {
    const parts = {}
    parts.promise = new this((resolve, reject) => Object.assign(parts, { resolve, reject }))
    return parts
  }
}
