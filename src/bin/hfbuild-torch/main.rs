//! `hfbuild-torch`: runs libtorch for hfbuild, which starts it and asks over a pipe. It is no program for people.
//!
//! Answers one request after the other until its input ends. What it may say ([`protocol`]) it shares with hfbuild, and the
//! readers of weights; of the networks' arithmetic nothing. Knows no manifest, no artifact and no store.

mod classifier;
mod generator;
mod libtorch;
mod model;
mod tensors;

use hfbuild::core::error::{Error, Result};
use hfbuild::model::torch::protocol::{self, Hello, PREFIX, PROTOCOL, Reply, Request};
use model::Model;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::io::stdin().is_terminal() || std::env::args_os().len() > 1 {
        eprintln!("hfbuild-torch runs libtorch for hfbuild, which starts it: there is nothing here to call by hand");
        return ExitCode::from(2);
    }
    match own_output().and_then(|output| serve(&mut std::io::stdin().lock(), output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The output for answers. What libtorch, or a TorchScript module's `print`, writes to stdout goes to stderr.
fn own_output() -> Result<File> {
    let failed = |e: std::io::Error| Error::stage("cannot set up the pipe").cause(e.to_string());
    let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    nix::unistd::dup2_stdout(std::io::stderr()).map_err(|e| failed(e.into()))?;
    Ok(output.into())
}

/// Answers until the input ends.
fn serve(input: &mut impl Read, mut output: File) -> Result<()> {
    let mut worker = Worker { cuda: libtorch::load_cuda(), model: None };
    let hung_up = |e: std::io::Error| Error::stage("hfbuild hung up").cause(e.to_string());
    while let Some((request, data)) = read(input)? {
        let (reply, numbers) = worker.answer(request, &data);
        let head = protocol::head(&reply, numbers.len() as u64)?;
        output.write_all(&head).and_then(|()| output.write_all(&numbers)).map_err(hung_up)?;
    }
    Ok(())
}

/// The next request and its data; `None`: there will be none.
fn read(input: &mut impl Read) -> Result<Option<(Request, Vec<u8>)>> {
    let cut = |e: std::io::Error| Error::stage("the input ends within a message").cause(e.to_string());
    let mut prefix = [0; PREFIX];
    if input.read(&mut prefix[..1]).map_err(cut)? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut prefix[1..]).map_err(cut)?;
    let (header, length) = protocol::lengths(&prefix)?;
    let (mut head, mut data) = (vec![0; header], vec![0; length]);
    input.read_exact(&mut head).and_then(|()| input.read_exact(&mut data)).map_err(cut)?;
    Ok(Some((protocol::parse(&head)?, data)))
}

struct Worker {
    /// How many devices, or why none.
    cuda: std::result::Result<usize, String>,
    model: Option<Model>,
}

impl Worker {
    fn answer(&mut self, request: Request, data: &[u8]) -> (Reply, Vec<u8>) {
        let _no_grad = tch::no_grad_guard();
        let answered = match request {
            Request::Hello { .. } => Ok((self.hello(), vec![])),
            Request::Open { subject, device, threads } => {
                self.model = None; // first, so that there is memory for the next
                Model::load(&subject, device, threads).map(|model| {
                    self.model = Some(model);
                    (Reply::Opened, vec![])
                })
            }
            Request::Run { inputs, output } => match &self.model {
                Some(model) => model.run(&inputs, data, &output).map(|(shape, data)| (Reply::Output { shape }, data)),
                None => Err(Error::stage("no network is loaded")),
            },
        };
        answered.unwrap_or_else(|error| (Reply::failed(&error, tensors::is_out_of_memory(&error)), vec![]))
    }

    fn hello(&self) -> Reply {
        Reply::Hello(Hello {
            protocol: PROTOCOL,
            torch: libtorch::version(),
            cuda_devices: *self.cuda.as_ref().unwrap_or(&0),
            no_cuda: self.cuda.as_ref().err().cloned(),
            threads: usize::try_from(tch::get_num_threads()).unwrap_or_default(),
        })
    }
}
