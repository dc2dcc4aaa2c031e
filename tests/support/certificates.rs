//! Certificates for a server of a tree and for the operator.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::path::Path;
use std::process::Command;

/// A server's certificate for 127.0.0.1, put where the server looks for it, and a client's for `waltree`.
pub struct Keys {
    pub ca: Vec<u8>,
    pub other_ca: Vec<u8>,
    pub client: Vec<u8>,
    pub client_key: Vec<u8>,
}

impl Keys {
    /// Makes them with `openssl` in the data directory of a server.
    pub fn make(data: &Path) -> Self {
        let script = "set -e
            for ca in ca other; do
                openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $ca.key -out $ca.crt \
                    -days 2 -subj /CN=$ca -addext basicConstraints=critical,CA:true
            done
            sign() {
                openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1.key -out $1.csr -subj /CN=$2
                printf \"subjectAltName=$3\\nbasicConstraints=CA:false\\n\" > $1.ext
                openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile $1.ext -out $1.crt
            }
            sign server 127.0.0.1 IP:127.0.0.1
            sign client waltree DNS:waltree
            chmod 600 server.key
            chown --reference=PG_VERSION server.key server.crt ca.crt";
        let made = Command::new("sh").args(["-c", script]).current_dir(data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |file| std::fs::read(data.join(file)).unwrap();
        Self {
            ca: read("ca.crt"),
            other_ca: read("other.crt"),
            client: read("client.crt"),
            client_key: read("client.key"),
        }
    }
}
