// A client in Node, with grpc-js and the contract alone: it makes the calls given on stdin.
//
// stdin:  {"address", "proto", "calls": [{"method", "request"}]}, requests as proto-loader takes them
// stdout: for each call {"answer"} or {"code", "reason"}, as a JSON list
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const given = JSON.parse(require("fs").readFileSync(0, "utf-8"));

const definition = loader.loadSync(given.proto, {longs: String, enums: String, defaults: true});
const {Vecdb} = grpc.loadPackageDefinition(definition).vecdb.v1;
const client = new Vecdb(given.address, grpc.credentials.createInsecure());

function made({method, request}) {
  return new Promise((resolve) => {
    client[method](request, (error, answer) => {
      if (!error) return resolve({answer});
      const [reason] = error.metadata.get("vecdb-reason");
      resolve({code: error.code, reason, message: error.details});
    });
  });
}

(async () => {
  const answers = [];
  for (const call of given.calls) answers.push(await made(call));
  process.stdout.write(JSON.stringify(answers));
  client.close();
})();
