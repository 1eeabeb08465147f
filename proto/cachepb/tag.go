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

// ReqIDOf returns what the client calls the operation that req is, by which it knows the answer; empty if it does not say, and
// for a request without a method.
func ReqIDOf(req *CacheRequest) string {
	switch m := req.GetMethod().(type) {
	case *CacheRequest_Get:
		return m.Get.GetRead().GetReqId()
	case *CacheRequest_Put:
		return m.Put.GetReqId()
	case *CacheRequest_Insert:
		return m.Insert.GetReqId()
	case *CacheRequest_Del:
		return m.Del.GetReqId()
	case *CacheRequest_Remove:
		return m.Remove.GetReqId()
	}
	return ""
}
