package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// alerts are what the other side may have against our end of a handshake. crypto/tls hands an alert over as an error of a
// private type, which prints as the public one does.
var alerts = map[tls.AlertError]string{
	42:  "it refuses the certificate that was presented: see CACHE_TLS_CLIENT_CERT here, CACHE_TLS_CA_CLIENT there",
	45:  "the certificate that was presented has expired: see CACHE_TLS_CLIENT_CERT",
	48:  "it does not know the CA of the certificate that was presented: see CACHE_TLS_CLIENT_CERT here, CACHE_TLS_CA_CLIENT there",
	70:  "it does not speak TLS 1.3",
	116: "it asks for a certificate, and none was presented: see CACHE_MTLS and CACHE_TLS_CLIENT_CERT",
}

// ExplainHandshake says in words, for whoever dialled, why a TLS handshake failed and which setting has to do with it; ""
// if err is nothing that it knows.
func ExplainHandshake(err error) string {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "it does not speak TLS: expected TLS on both sides, or CACHE_TLS=false on both"
	}
	if remote, ok := errors.AsType[*net.OpError](err); ok && remote.Op == "remote error" {
		for alert, meaning := range alerts {
			if remote.Err.Error() == alert.Error() {
				return meaning
			}
		}
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate is refused: " + explainCertificate(bad.Err, "CACHE_TLS_CA_SERVER")
	}
	return ""
}

// explainCertificate says why a certificate was refused. roots is where the CAs come from.
func explainCertificate(err error, roots string) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "it is not signed by a CA of " + roots
	}
	if host, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("it is for %s, not for %s (CACHE_TLS_CLIENT_VALIDATE_DOMAIN)", strings.Join(subjects(host.Certificate), ", "), host.Host)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		switch invalid.Reason {
		case x509.Expired:
			if now := time.Now(); now.Before(invalid.Cert.NotBefore) {
				return "it is not valid before " + invalid.Cert.NotBefore.UTC().Format(time.DateTime)
			}
			return "it has expired on " + invalid.Cert.NotAfter.UTC().Format(time.DateTime)
		case x509.IncompatibleUsage:
			return "its extended key usage does not allow what it is used for, server or client authentication"
		}
	}
	return err.Error()
}
