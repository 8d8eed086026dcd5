"""What drivers share. It knows the seam (`hexa_worker.drivers.base`) and no driver."""
