package cachepb

// TagOf returns what names the write that req is, so that it takes effect once however often it arrives; nil for a read, a
// request without a method, and a write that nobody named.
func TagOf(req *CacheRequest) *OpTag {
	switch m := req.GetMethod().(type) {
	case *CacheRequest_Put:
		return m.Put.GetOp()
	case *CacheRequest_Insert:
		return m.Insert.GetOp()
	case *CacheRequest_Del:
		return m.Del.GetOp()
	case *CacheRequest_Remove:
		return m.Remove.GetOp()
	}
	return nil
}
