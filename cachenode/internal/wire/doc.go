// Package wire reads and writes the messages that are sent for each operation, by hand.
//
// Generated code walks tables and allocates each message, string and byte slice by itself: for an Insert of 128 bytes seven
// allocations, which is more than everything else that a node does with it. The functions here give the same messages in two
// allocations, one copy of the bytes and one block with all structs of the operation, and whole batches in fewer.
//
// They know the fields that hot messages have and nothing else. Whatever is not known, comes twice, or is not as the
// contract has it, is left to the generated code, which alone decides what is an error. So they can be wrong in one way
// only, by giving another message than the generated code does, and the tests hold them against it.
//
// What comes from the network is copied out of gRPC's buffer into blocks of a few KiB, so that an operation that stays open
// for long does not hold on to the MiB of a batch that it came in. What is read of a log entry shares its memory.
package wire
