// Package compare sets runs against each other: it says by how much one side differs from the other, how well that is
// known, and whether it is a loss that must not pass. It reads results, never live objects.
//
// Everything relative is compared as the logarithm of a ratio, so that twice and half are equally far from equal. There
// is no outlier removal and no assumption about distributions; see [SignedRank] and [RankSum].
package compare
