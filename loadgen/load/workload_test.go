package load

import (
	"bytes"
	"compress/flate"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/internal/bubble"
)

// chiSquare is the statistic of observed counts against expected ones, and its
// number of degrees of freedom. Cells that expect fewer than five are pooled.
func chiSquare(observed []int, expected []float64) (statistic float64, freedom int) {
	var o, e float64
	for i := range observed {
		o += float64(observed[i])
		e += expected[i]
		if e >= 5 || i == len(observed)-1 {
			if e > 0 {
				statistic += (o - e) * (o - e) / e
				freedom++
			}
			o, e = 0, 0
		}
	}
	return statistic, freedom - 1
}

// chiSquareLimit is about the 99.9th percentile of the distribution (Wilson and
// Hilferty).
func chiSquareLimit(freedom int) float64 {
	k := float64(freedom)
	a := 2 / (9 * k)
	return k * math.Pow(1-a+3.09*math.Sqrt(a), 3)
}

// Keys are taken as often as their distribution says, for small and large key
// spaces and for exponents on both sides of 1.
func TestKeyDistributions(t *testing.T) {
	for _, tc := range []struct {
		dist string
		keys uint64
	}{
		{"uniform", 1000},
		{"zipf(0)", 100},
		{"zipf(0.5)", 1000},
		{"zipf(0.99)", 10000},
		{"zipf(1)", 1000},
		{"zipf(1.5)", 1000},
		{"zipf(3)", 100},
		{"zipf(0.99)", 1},
		{"zipf(0.99)", 2},
		{"hotspot(80,20)", 1000},
		{"hotspot(99,1)", 200},
		{"hotspot(10,100)", 50},
		{"exponential(5)", 1000},
		{"exponential(0)", 100},
		{"exponential(40)", 5000},
	} {
		t.Run(fmt.Sprintf("%s of %d", tc.dist, tc.keys), func(t *testing.T) {
			dist, err := ParseKeyDist(tc.dist)
			if err != nil {
				t.Fatal(err)
			}
			const n = 300_000
			counts := map[string]int{}
			src := mustSource(t, Workload{Seed: 7, Keys: tc.keys, Dist: dist})
			var op client.Op
			for i := range uint64(n) {
				src.Op(i, &op, nil)
				counts[op.Key]++
			}
			// Which key is the most popular one is scattered: compare ranks.
			var observed []int
			expected := make([]float64, tc.keys)
			scattered := newScatter(tc.keys)
			sum := 0.0
			for i := range expected {
				expected[i] = 1
				at := scattered.place(uint64(i))
				switch x := float64(i) / float64(tc.keys); {
				case dist.Kind == KeyZipf:
					expected[i] = math.Pow(float64(i+1), -dist.Theta)
				case dist.Kind == KeyHotspot && dist.Keys < 1 && x < dist.Keys:
					expected[i] = dist.Ops / dist.Keys
				case dist.Kind == KeyHotspot && dist.Keys < 1:
					expected[i] = (1 - dist.Ops) / (1 - dist.Keys)
				case dist.Kind == KeyExponential:
					expected[i] = math.Exp(-dist.Decay * x) // but for a factor
				}
				sum += expected[i]
				observed = append(observed, counts[fmt.Sprintf("key-%d", at)])
			}
			for i := range expected {
				expected[i] *= n / sum
			}
			got, freedom := chiSquare(observed, expected)
			if freedom > 0 && got > chiSquareLimit(freedom) {
				t.Errorf("chi-square %.1f with %d degrees of freedom, limit %.1f", got, freedom, chiSquareLimit(freedom))
			}
			if len(counts) > int(tc.keys) {
				t.Errorf("%d different keys of %d", len(counts), tc.keys)
			}
		})
	}
}

// Reads of the latest keys lie behind the writes by a Zipf distance; writes go
// through the keys in order, and no key is older than one round of them.
func TestLatest(t *testing.T) {
	const n, keys, share = 200_000, 1000, 0.25
	src := mustSource(t, Workload{
		Seed: 5, Keys: keys, Dist: KeyDist{Kind: KeyLatest, Theta: 0.99},
		Mix: []Weight[client.Kind]{{client.KindGet, 3}, {client.KindInsert, 1}},
	})
	behind, expected := make([]int, keys), make([]float64, keys)
	reads, sum := 0.0, 0.0
	var op client.Op
	for i := range uint64(n) {
		src.Op(i, &op, nil)
		var key int
		fmt.Sscanf(op.Key, "key-%d", &key)
		distance := (int(float64(i)*share)%keys + keys - key) % keys
		if op.Kind == client.KindInsert {
			if distance != 0 {
				t.Fatalf("operation %d writes key %d, %d behind", i, key, distance)
			}
			continue
		}
		behind[distance]++
		reads++
	}
	for d := range expected {
		expected[d] = math.Pow(float64(d+1), -0.99)
		sum += expected[d]
	}
	for d := range expected {
		expected[d] *= reads / sum
	}
	if got, freedom := chiSquare(behind, expected); got > chiSquareLimit(freedom) {
		t.Errorf("chi-square %.1f, %d degrees of freedom", got, freedom)
	}
}

// scatter is a bijection.
func TestScatter(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 10, 1000, 4096, 99991} {
		s := newScatter(n)
		seen := make([]bool, n)
		for i := range n {
			seen[s.place(i)] = true
		}
		if slices.Contains(seen, false) {
			t.Errorf("n=%d: not every place is taken", n)
		}
	}
}

// The mix of kinds and levels, and the sizes, are what was asked for.
func TestMixAndSizes(t *testing.T) {
	mix, err := ParseMix("get=60, insert=30,remove=5,put=5")
	if err != nil {
		t.Fatal(err)
	}
	acks, err := ParseAcks("quorum=70,once=10,leader=20")
	if err != nil {
		t.Fatal(err)
	}
	const n = 200_000
	src := mustSource(t, Workload{Seed: 3, Mix: mix, Acks: acks, Sizes: Sizes{Min: 10, Max: 73}})
	counts := make([]int, series)
	sizes := make([]int, 64)
	var op client.Op
	writes := 0
	for i := range uint64(n) {
		src.Op(i, &op, nil)
		counts[seriesIndex(&op)]++
		if op.Kind == client.KindInsert || op.Kind == client.KindPut {
			sizes[len(op.Value)-10]++
			writes++
		}
	}
	expected := make([]float64, series)
	for i, p := range map[client.Kind]float64{client.KindGet: .6, client.KindPut: .05, client.KindInsert: .3, client.KindRemove: .05} {
		if !i.Leveled() {
			expected[int(i)*levels] = p * n
			continue
		}
		for l, q := range map[client.Level]float64{client.LevelQuorum: .7, client.LevelOnce: .1, client.LevelLeader: .2} {
			expected[int(i)*levels+int(l)] = p * q * n
		}
	}
	if got, freedom := chiSquare(counts, expected); got > chiSquareLimit(freedom) {
		t.Errorf("kinds and levels: chi-square %.1f, %d degrees of freedom: %v", got, freedom, counts)
	}
	flat := make([]float64, 64)
	for i := range flat {
		flat[i] = float64(writes) / 64
	}
	if got, freedom := chiSquare(sizes, flat); got > chiSquareLimit(freedom) {
		t.Errorf("sizes: chi-square %.1f, %d degrees of freedom", got, freedom)
	}
}

// The logarithm of lognormal sizes is normal, by Kolmogorov and Smirnov, up to
// where sizes are cut off; weighted sizes are taken by their weights.
func TestSizeDistributions(t *testing.T) {
	draw := func(text string, n int) []int {
		s, err := ParseSizes(text)
		if err != nil {
			t.Fatal(err)
		}
		src := mustSource(t, Workload{Seed: 9, Sizes: s, Mix: []Weight[client.Kind]{{client.KindInsert, 1}}})
		var all []int
		var op client.Op
		for i := range uint64(n) {
			src.Op(i, &op, nil)
			all = append(all, len(op.Value))
		}
		return all
	}
	const n = 40_000
	var logs []float64
	for _, size := range draw("lognormal(20000,0.8)", n) {
		logs = append(logs, math.Log(float64(size)))
	}
	// Rounding to whole bytes moves the distribution by less than 1/20000 here.
	d := kolmogorov(logs, func(x float64) float64 { return math.Erfc(-(x-math.Log(20000))/0.8/math.Sqrt2) / 2 })
	if d > kolmogorovLimit(n) {
		t.Errorf("lognormal: %.5f away, limit %.5f", d, kolmogorovLimit(n))
	}
	cut := 0
	for _, size := range draw("lognormal(512KiB,1)", n) {
		if size > MaxValue {
			t.Fatalf("%d bytes", size)
		}
		if size == MaxValue {
			cut++
		}
	}
	// ln 2 above the median: 24.4 % of all.
	if share := float64(cut) / n; math.Abs(share-0.2441) > 0.008 {
		t.Errorf("%.4f of the sizes are cut off, want 0.244", share)
	}
	counts := map[int]int{}
	for _, size := range draw("100=90,4KiB=9,1kB=1", n) {
		counts[size]++
	}
	got, freedom := chiSquare([]int{counts[100], counts[4096], counts[1000]}, []float64{.9 * n, .09 * n, .01 * n})
	if got > chiSquareLimit(freedom) || len(counts) != 3 {
		t.Errorf("weights: chi-square %.1f: %v", got, counts)
	}
}

// Sizes and key distributions are written as they are read.
func TestParseDistributions(t *testing.T) {
	for text, want := range map[string]string{
		"128": "128", "4KiB": "4096", "0": "0", "0-0": "0", "64-4096": "64-4096", "1k-1MiB": "1024-1048576", "100=9,1kB=1": "100=9,1000=1", "lognormal(1KiB, 1.2)": "lognormal(1024,1.2)",
	} {
		s, err := ParseSizes(text)
		if err != nil || s.String() != want {
			t.Errorf("%q: got %s, %v; want %s", text, s, err, want)
		}
		if again, err := ParseSizes(want); err != nil || again.String() != want {
			t.Errorf("%q: read back as %s, %v", want, again, err)
		}
	}
	for _, text := range []string{"", "x", "9-1", "-1", "2MiB", "1-2MiB", "5=0", "5=x", "x=1", "lognormal(0,1)", "lognormal(5)", "lognormal(5,-1)", "99999999999"} {
		if s, err := ParseSizes(text); err == nil {
			t.Errorf("%q: read as %s", text, s)
		}
	}
	for text, want := range map[string]string{
		"": "uniform", "zipf": "zipf(0.99)", "latest": "latest(0.99)", "hotspot": "hotspot(80,20)", "hotspot(95%, 5%)": "hotspot(95,5)",
		"exponential": "exponential(5)", "exponential(0)": "exponential(0)", "sequential": "sequential", "zipf(1.2)": "zipf(1.2)",
	} {
		d, err := ParseKeyDist(text)
		if err != nil || d.String() != want {
			t.Errorf("%q: got %s, %v; want %s", text, d, err, want)
		}
		if again, err := ParseKeyDist(want); err != nil || again != d {
			t.Errorf("%q: read back as %s, %v", want, again, err)
		}
	}
	for _, text := range []string{"bell", "zipf(11)", "zipf(x)", "zipf()", "hotspot(80)", "hotspot(0,5)", "hotspot(80,120)", "exponential(-1)", "uniform(3)", "zipf(NaN)"} {
		if d, err := ParseKeyDist(text); err == nil {
			t.Errorf("%q: read as %s", text, d)
		}
	}
}

// The gaps of a Poisson schedule are exponential: by their distribution at the
// deciles, and independent of the one before.
func TestPoisson(t *testing.T) {
	const n, rate = 200_000, 1000.0
	deciles := make([]int, 10)
	var last, sum time.Duration
	below, pairs := 0, 0
	short := false
	i := 0
	for at := range (Poisson{rate}).Times(11) {
		gap := at - last
		last = at
		u := 1 - math.Exp(-rate*gap.Seconds()) // uniform if the gap is exponential
		deciles[min(int(u*10), 9)]++
		if short {
			pairs++
			if u < 0.5 {
				below++
			}
		}
		short = u < 0.5
		sum = at
		if i++; i == n {
			break
		}
	}
	expected := make([]float64, 10)
	for i := range expected {
		expected[i] = n / 10
	}
	if got, freedom := chiSquare(deciles, expected); got > chiSquareLimit(freedom) {
		t.Errorf("chi-square %.1f: %v", got, deciles)
	}
	if share := float64(below) / float64(pairs); math.Abs(share-0.5) > 0.006 {
		t.Errorf("after a short gap %.4f are short, want half", share)
	}
	if got := n / sum.Seconds(); math.Abs(got-rate) > 10 {
		t.Errorf("rate %.1f", got)
	}
}

// A constant schedule does not drift: the millionth time is exact.
func TestConstant(t *testing.T) {
	i := 0
	for at := range (Constant{3}).Times(0) {
		if i == 3_000_000 {
			if at != 1_000_000*time.Second {
				t.Errorf("got %s", at)
			}
			return
		}
		i++
	}
}

// A key is named by its number, whether or not the names are made in advance: at
// the ends of every number of digits, and at the end of the key space.
func TestKeyNames(t *testing.T) {
	for _, n := range []uint64{1, 2, 10, 11, 100, 101, 12_345, 100_000, keyTable, keyTable + 1, 1 << 40} {
		names := newKeyNames("k:", n)
		if made := names.text != ""; made != (n <= keyTable) {
			t.Errorf("%d keys: names made in advance: %v", n, made)
		}
		for i := uint64(1); i <= n; i *= 10 {
			for _, key := range []uint64{0, i - 1, i, i + 1, 5 * i, n - 1} {
				if want := fmt.Sprintf("k:%d", key); key < n && names.of(key) != want {
					t.Errorf("key %d of %d: %q, want %q", key, n, names.of(key), want)
				}
			}
		}
	}
	names := newKeyNames("", 3000)
	for i := range uint64(3000) {
		if names.of(i) != strconv.FormatUint(i, 10) {
			t.Errorf("key %d: %q", i, names.of(i))
		}
	}
}

// The same seed gives the same times and operations, another one others; and an
// operation does not depend on those before it.
func TestSeed(t *testing.T) {
	type step struct {
		at    time.Duration
		kind  client.Kind
		level client.Level
		key   string
		value string
	}
	steps := func(seed uint64) (all []step) {
		src := mustSource(t, Workload{
			Seed: seed, Sizes: Sizes{Min: 5, Max: 50}, Dist: KeyDist{Kind: KeyZipf, Theta: 0.99},
			Acks: []Weight[client.Level]{{client.LevelQuorum, 1}, {client.LevelLeader, 1}},
		})
		var op client.Op
		for at := range (Poisson{100}).Times(seed) {
			src.Op(uint64(len(all)), &op, nil)
			all = append(all, step{at, op.Kind, op.Level, op.Key, string(op.Value)})
			if len(all) == 1000 {
				return all
			}
		}
		return nil
	}
	a, b, c := steps(1), steps(1), steps(2)
	if !slices.Equal(a, b) {
		t.Error("two runs with one seed differ")
	}
	same := 0
	for i := range a {
		if a[i].key == c[i].key {
			same++
		}
	}
	if slices.Equal(a, c) || same > 200 {
		t.Errorf("%d of 1000 keys agree between seeds", same)
	}
	src := mustSource(t, Workload{Seed: 1, Sizes: Sizes{Min: 5, Max: 50}, Dist: KeyDist{Kind: KeyZipf, Theta: 0.99}})
	var op client.Op
	src.Op(777, &op, nil)
	if op.Key != a[777].key {
		t.Errorf("operation 777 alone takes %s, in sequence %s", op.Key, a[777].key)
	}
}

// Values do not compress, and checked ones tell who wrote them; damage shows.
func TestValues(t *testing.T) {
	writes := []Weight[client.Kind]{{client.KindInsert, 1}}
	src := mustSource(t, Workload{Mix: writes, Sizes: Sizes{Min: 1000, Max: 2000}})
	var op client.Op
	for i := range uint64(20) {
		src.Op(i, &op, nil)
		var packed bytes.Buffer
		w, _ := flate.NewWriter(&packed, flate.BestCompression)
		w.Write(op.Value)
		w.Close()
		if packed.Len() < len(op.Value) {
			t.Errorf("%d bytes compress to %d", len(op.Value), packed.Len())
		}
	}
	src = mustSource(t, Workload{Mix: writes, Sizes: FixedSize(1000), Compressible: true})
	src.Op(1, &op, nil)
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.BestCompression)
	w.Write(op.Value)
	w.Close()
	if packed.Len() > 100 {
		t.Errorf("compressible: %d bytes compress to %d", len(op.Value), packed.Len())
	}

	for _, size := range []int{1, 40, 5000} {
		src := mustSource(t, Workload{Mix: writes, Sizes: FixedSize(size), Checked: true, Client: "c7"})
		scratch := src.Op(12345, &op, nil)
		who, seq, err := ParseCheckedValue(op.Value)
		if err != nil || who != "c7" || seq != 12345 || len(op.Value) != max(size, len("c7:12345:00000000:")) {
			t.Fatalf("size %d: %q %d %v, %d bytes", size, who, seq, err, len(op.Value))
		}
		for _, at := range []int{0, 3, 9, len(op.Value) - 1} {
			damaged := bytes.Clone(op.Value)
			damaged[at] ^= 1
			if _, _, err := ParseCheckedValue(damaged); err == nil {
				t.Errorf("size %d: damage at %d not seen", size, at)
			}
		}
		_ = scratch
	}
}

// What was not ok is noted by its number in the source, and offered again alone.
func TestUndoneAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		source := mustSource(t, Workload{Keys: 50, Dist: KeyDist{Kind: KeySequential}, Mix: []Weight[client.Kind]{{client.KindInsert, 1}}})
		answered := map[string]int{}
		var mu sync.Mutex
		fails := 0
		target := &Scripted{Width: 2, Serve: func(_ uint64, op *client.Op) (time.Duration, client.Outcome) {
			mu.Lock()
			defer mu.Unlock()
			if fails++; fails%2 == 1 && fails < 60 {
				return time.Millisecond, client.Outcome{Status: client.StatusInfo, Err: client.ErrBroken}
			}
			answered[op.Key]++
			return time.Millisecond, client.Outcome{}
		}}
		undone := &Undone{}
		indices := make([]uint64, 50)
		for i := range indices {
			indices[i] = uint64(i)
		}
		rounds := 0
		for ; len(indices) > 0; rounds++ {
			g := Generator{Target: target, Source: Only{source, indices}, Observer: undone, Ops: uint64(len(indices))}
			run(t, t.Context(), g)
			again, why := undone.Take()
			if len(again) > 0 && why != client.ErrBroken {
				t.Fatalf("%d left: %v", len(again), why)
			}
			for k := range again {
				again[k] = indices[again[k]]
			}
			indices = again
		}
		if len(answered) != 50 || rounds < 2 {
			t.Errorf("%d keys after %d rounds", len(answered), rounds)
		}
		for key, n := range answered {
			if n != 1 {
				t.Errorf("%s was answered %d times", key, n)
			}
		}
	})
}

// Mistakes are told with what was found and what was expected.
func TestParseMistakes(t *testing.T) {
	for _, err := range []error{
		second(ParseMix("get=90,inset=10")), second(ParseMix("get=0")), second(ParseMix("get=-1")), second(ParseMix("get=1e308,put=1e308")), second(ParseMix("")),
		second(ParseAcks("quorum=x")), second(ParseAcks("all")),
		second(ParseKeyDist("zipf(x)")), second(ParseKeyDist("gauss")),
		second(ParseCount("1.5k")), second(ParseCount("")), second(ParseCount("-1")), second(ParseCount("99999999999999999999g")),
		second(ParseSchedule("constant", 0)), second(ParseSchedule("sine", 5)), second(ParseSchedule("poisson", math.NaN())),
		second(ParseSizes("10-5")), second(ParseSizes("2MiB")), second(ParseSizes("x")), second(ParseSizes("-5")),
	} {
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte("want")) {
			t.Errorf("error %v", err)
		}
	}
	if _, err := (Workload{Sizes: Sizes{Min: 5, Max: 2 << 20}, Mix: []Weight[client.Kind]{{client.KindGet, -1}}}).Source(); err == nil || len(err.(interface{ Unwrap() []error }).Unwrap()) != 2 {
		t.Errorf("two mistakes: %v", err)
	}
	if n, err := ParseCount("100k"); n != 100_000 || err != nil {
		t.Errorf("%d %v", n, err)
	}
}

func second[T any](_ T, err error) error { return err }
