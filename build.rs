//! The migrations are embedded by a macro, of whose files cargo does not know.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
