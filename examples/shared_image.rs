//! An image in shared memory that several processes paint, and one writes to a file.
//!
//! `cargo run --release --example shared_image [PATH]` paints the Mandelbrot set; the path of the PNG is printed.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use multiprocess as mp;
use multiprocess::{Array, Value};

const WIDTH: usize = 1200;
const HEIGHT: usize = 800;

type Pixel = [u8; 3];

/// How fast a point flees, as a colour; those that stay are black.
fn colour(x: usize, y: usize) -> Pixel {
    const LIMIT: u32 = 500;
    let (a, b) = (x as f64 / 400.0 - 2.2, y as f64 / 400.0 - 1.0);
    let (mut re, mut im, mut steps) = (0.0_f64, 0.0_f64, 0);
    while re * re + im * im < 256.0 && steps < LIMIT {
        (re, im) = (re * re - im * im + a, 2.0 * re * im + b);
        steps += 1;
    }
    if steps == LIMIT {
        return [0; 3];
    }
    // A smooth measure of the speed, around the colour circle.
    let speed = (f64::from(steps) + 1.0 - (re * re + im * im).ln().log2()).max(0.0).sqrt() * 0.6;
    [0.0, 0.6, 1.2].map(|shift| (127.5 + 127.5 * (speed * 2.0 + shift + 3.4).cos()) as u8)
}

/// Takes rows, one after the other, until there are none left; returns how many it painted.
fn paint(next: &Value<usize>, image: &Array<Pixel>) -> mp::shm::Result<usize> {
    let mut painted = 0;
    loop {
        let y = next.update(|next| std::mem::replace(next, *next + 1))?;
        if y >= HEIGHT {
            return Ok(painted);
        }
        let row: Vec<Pixel> = (0..WIDTH).map(|x| colour(x, y)).collect();
        image.copy_from_slice(y * WIDTH, &row)?;
        painted += 1;
    }
}

/// What a painter process runs; errors travel home as text.
fn painter(next: Value<usize>, image: Array<Pixel>) -> Result<usize, String> {
    paint(&next, &image).map_err(|error| error.to_string())
}

fn write(image: &Array<Pixel>, path: &Path) -> Result<(), Box<dyn Error>> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), WIDTH as u32, HEIGHT as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.lock()?.as_flattened())?;
    Ok(writer.finish()?)
}

fn draw(path: &Path) -> Result<Array<Pixel>, Box<dyn Error>> {
    let (next, image) = (Value::new(0_usize)?, Array::<Pixel>::zeroed(WIDTH * HEIGHT)?);
    let painters = (0..4)
        .map(|_| mp::process(painter, (next.clone(), image.clone())).start())
        .collect::<Result<Vec<_>, _>>()?;
    for painter in painters {
        println!("{} painted {} rows", painter.name(), painter.join()??);
    }
    // Nothing was copied to get here: the rows are where the painters put them.
    write(&image, path)?;
    Ok(image)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).map(PathBuf::from);
    let path = path.unwrap_or_else(|| std::env::temp_dir().join("shared_image.png"));
    draw(&path)?;
    println!("{}", path.display());
    Ok(())
}

#[test]
fn the_file_shows_what_the_processes_painted() {
    let path = std::env::temp_dir().join(format!("shared_image-{}.png", std::process::id()));
    let image = draw(&path).expect("an image").to_vec().expect("pixels");
    let decoder = png::Decoder::new(std::io::BufReader::new(File::open(&path).expect("a file")));
    let mut reader = decoder.read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    reader.next_frame(&mut pixels).expect("pixels");
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(pixels, image.as_flattened());
    // Inside and outside of the set.
    assert_eq!(image[HEIGHT / 2 * WIDTH + 880], [0; 3]);
    assert!((0..HEIGHT).all(|y| image[y * WIDTH] == colour(0, y) && image[y * WIDTH] != [0; 3]));
}
