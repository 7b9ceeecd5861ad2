//! Generates the Rust types of the C ABI from `perl/aews.h` (feature `ffi`), and compiles the XS shim
//! into the library (feature `perl`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "ffi")]
    abi::generate();
    #[cfg(feature = "perl")]
    shim::build();
}

#[cfg(feature = "ffi")]
mod abi {
    use std::env;
    use std::path::PathBuf;

    /// `src/ffi` implements exactly what comes out here: where header and implementation differ,
    /// the crate does not compile. Types and declarations are apart, so that the implementations
    /// can have the names of the latter.
    pub fn generate() {
        println!("cargo:rerun-if-changed=perl/aews.h");
        write("abi_types.rs", builder().ignore_functions());
        write("abi_functions.rs", builder().with_codegen_config(bindgen::CodegenConfig::FUNCTIONS));
    }

    fn builder() -> bindgen::Builder {
        bindgen::Builder::default()
            .header("perl/aews.h")
            .allowlist_item("aews_.*|AEWS_.*")
            .prepend_enum_name(false)
            .default_enum_style(bindgen::EnumVariation::Consts)
            .generate_comments(false)
            .layout_tests(false)
            .use_core()
    }

    fn write(name: &str, builder: bindgen::Builder) {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let bindings = builder.generate().expect("Rust types from perl/aews.h");
        bindings.write_to_file(out.join(name)).expect("a file in OUT_DIR");
    }
}

#[cfg(feature = "perl")]
mod shim {
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// What `Connection.xs` is glue for.
    const SOURCES: [&str; 9] = [
        "backlog",
        "callbacks",
        "closure",
        "context",
        "dispatch",
        "lifetime",
        "message",
        "send",
        "transport",
    ];

    pub fn build() {
        for path in ["Connection.xs", "Handshake.xs", "typemap", "aews.h", "shim"] {
            println!("cargo:rerun-if-changed=perl/{path}");
        }
        println!("cargo:rerun-if-env-changed=PERL");
        let perl = Perl(env::var("PERL").unwrap_or_else(|_| "perl".into()));
        println!("cargo:rustc-check-cfg=cfg(perl_multiplicity)");
        if perl.config("usemultiplicity") == "define" {
            println!("cargo:rustc-cfg=perl_multiplicity");
        }
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let c = out.join("Connection.c");
        perl.xsubpp(Path::new("perl/Connection.xs"), &c);

        let mut cc = cc::Build::new();
        cc.file(&c).files(SOURCES.map(|name| format!("perl/shim/{name}.c")));
        cc.include("perl")
            .include("perl/shim")
            .include(Path::new(&perl.config("archlibexp")).join("CORE"));
        for flag in perl.config("ccflags").split_whitespace() {
            cc.flag(flag);
        }
        // Perl's own headers do not pass these.
        cc.flag_if_supported("-Wno-unused-parameter").flag_if_supported("-Wno-sign-compare");
        // The symbol that XSLoader looks up is exported from Rust, which would hide this one.
        cc.define("boot_AnyEvent__WebSocket__Connection", "aews_boot_shim");
        cc.compile("aews_shim");
        perl.link(&out);
    }

    struct Perl(String);

    impl Perl {
        fn config(&self, key: &str) -> String {
            let output = Command::new(&self.0)
                .args(["-MConfig", "-e", "print $Config{$ARGV[0]} // ''", key])
                .output()
                .expect("perl runs");
            assert!(output.status.success(), "perl -MConfig failed");
            String::from_utf8(output.stdout).expect("perl's configuration is text")
        }

        fn xsubpp(&self, xs: &Path, c: &Path) {
            let root = env::current_dir().expect("a current directory");
            let output = Command::new(&self.0)
                .args(["-MExtUtils::ParseXS", "-e"])
                .arg(
                    "ExtUtils::ParseXS->new->process_file(filename => $ARGV[0], \
                     output => $ARGV[1], typemap => $ARGV[2], linenumbers => 1)",
                )
                .args([root.join(xs), c.to_owned(), root.join("perl/typemap")])
                .output()
                .expect("perl runs");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "xsubpp failed on {}:\n{errors}", xs.display());
        }

        /// Perl is in the process that loads the library, which therefore must not ask for
        /// libperl.so. `libperl-sys` asks for `-lperl`: an empty archive answers.
        fn link(&self, out: &Path) {
            let stub = out.join("stub");
            fs::create_dir_all(&stub).expect("a directory in OUT_DIR");
            fs::write(stub.join("libperl.a"), "!<arch>\n").expect("an empty archive");
            println!("cargo:rustc-link-search=native={}", stub.display());
        }
    }
}
