//! Tells the linker where libtorch lies, where the worker `hfbuild-torch` is built (cargo feature `tch`); otherwise nothing.
//!
//! `DEP_TCH_LIBTORCH_LIB` is what the build of torch-sys found. The worker keeps the folder as its rpath. PyPI's libtorch is
//! built for CUDA and names functions of CUDA's libraries that a machine without a device lacks: what is linked may leave
//! them open, for the loader resolves them, or refuses, when the worker starts.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    for argument in [&format!("-Wl,-rpath,{libtorch}"), "-Wl,--allow-shlib-undefined"] {
        println!("cargo::rustc-link-arg-bin=hfbuild-torch={argument}");
    }
}
