fn main(){ weighbridge::sensor::load::probe().unwrap() }
